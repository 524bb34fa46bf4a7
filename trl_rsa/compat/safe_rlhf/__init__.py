"""Safe RLHF. A script that imported `safe_rlhf.x` imports `trl_rsa.compat.safe_rlhf.x`. See docs/migration.md."""
