"""Other libraries' names for what tapefuse does."""
