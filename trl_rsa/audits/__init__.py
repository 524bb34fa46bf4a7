"""Audits: people's labels for a part of the responses, drawn with known probabilities, and what follows from them."""
