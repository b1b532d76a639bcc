"""Documentation is tested: what its pages show is run, and what they name exists."""
