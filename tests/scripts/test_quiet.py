"""What a user cannot act on does not fill the screen; everything else is seen."""

import logging
import subprocess
import sys

from trl_rsa.scripts._quiet import UNHELPFUL, hush


def test_a_command_says_nothing_that_a_user_cannot_act_on():
    """A process of its own, which imports bitsandbytes: where the CPU has bfloat16 instructions, the message comes on
    import. It is sent again by hand, for other CPUs, and so is another one of the same library, which is seen."""
    code = (
        "import logging; from trl_rsa.cli import main; assert main(['env']) == 0\n"
        "log = logging.getLogger('bitsandbytes.backends.cpu.ops')\n"
        "log.warning('Failed to load CPU gemm_4bit_forward: %s', 'x')\n"
        "log.warning('your weights are broken')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert result.stderr == "your weights are broken\n"


def test_hush_may_be_called_again(caplog):
    hush()
    hush()
    for name, beginnings in UNHELPFUL.items():
        assert len([one for one in logging.getLogger(name).filters if hasattr(one, "beginnings")]) == 1
        for beginning in beginnings:
            logging.getLogger(name).warning("%s and more", beginning)
            logging.getLogger("trl_rsa").warning("ours: %s", beginning)
    assert all(record.getMessage().startswith("ours: ") for record in caplog.records)
    assert len(caplog.records) == sum(map(len, UNHELPFUL.values()))
