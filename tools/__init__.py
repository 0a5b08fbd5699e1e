"""Tools of the checkout: nothing of them is installed."""
