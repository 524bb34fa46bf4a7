"""The stepwise part: a plan of stages, each anchored at the policy of the one before, and its run.

The room is not called `align`: that is the public function, and a subpackage of its name would hide it.
"""
