"""Tests that speak only HTTP to a base URL."""

import pytest

pytest.register_assert_rewrite("tests.support.api", "tests.support.promise")
