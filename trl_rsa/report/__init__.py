"""Reads what an evaluation left in a folder, draws it, and writes one page. Knows files only: no torch, no models."""

from trl_rsa.report.card import update_model_card
from trl_rsa.report.front import front_markdown
from trl_rsa.report.headline import headline_markdown
from trl_rsa.report.write import write_report


__all__ = ["front_markdown", "headline_markdown", "update_model_card", "write_report"]
