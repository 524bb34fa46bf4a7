"""`python -m trl_rsa`, the same as `trl-rsa`."""

from trl_rsa.cli import run


if __name__ == "__main__":
    run()
