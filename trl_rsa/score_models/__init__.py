"""Learned rewards and costs: training on pairs, labels and grades of harm, and a card with what they are worth."""
