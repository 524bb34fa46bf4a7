"""The real track: a chat model, published data, two learned costs, and what each method pays to meet a budget."""
