"""The methods of a stage, by name."""

from trl_rsa.training.methods.dpo import DPO
from trl_rsa.training.methods.kto import KTO
from trl_rsa.training.methods.method import Method
from trl_rsa.training.methods.odds import CPO, ORPO
from trl_rsa.training.methods.rloo import RLOO
from trl_rsa.training.methods.rsa import RSA
from trl_rsa.training.methods.scorers import COST, REWARD
from trl_rsa.training.methods.sft import SFT


METHODS: dict[str, Method] = {method.name: method for method in (RSA, DPO, KTO, SFT, ORPO, CPO, REWARD, COST, RLOO)}
