"""One stage: from a policy and pairs to the next policy, in this process or in a launched group."""
