"""Scripts of other systems as plans of `trl-rsa align`: read, never run."""
