"""PKU's Safe RLHF: a script that imported `safe_rlhf.x` imports `trl_rsa.compat.safe_rlhf.x` (docs/migration.md)."""
