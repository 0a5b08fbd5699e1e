"""iretrace's tests."""
