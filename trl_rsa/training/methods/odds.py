"""ORPO and CPO: preference pairs without a reference policy. TRL keeps both among its experiments."""

from trl_rsa.training.methods.method import Method, find_in_trl, train_policy


def _method(name: str, summary: str) -> Method:
    find = find_in_trl(name, name.upper())
    make_trainer = train_policy(find, with_reference=False)
    return Method(name, summary, "pairs", find, make_trainer, frozenset({"beta"}), has_reference=False)


ORPO = _method("orpo", "preference pairs by the odds ratio; `beta` weighs it against imitation")
CPO = _method("cpo", "preference pairs without a reference (CPO, SimPO and their mixtures)")
