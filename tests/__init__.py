"""Tests. This package ships so that it wins over the top-level `tests` that azure-functions-durable installs."""
