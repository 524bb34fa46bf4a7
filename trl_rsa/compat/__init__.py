"""Doors for other people's scripts: names, arguments and files as they had them, and trl-rsa behind them."""
