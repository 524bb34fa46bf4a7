"""What a user cannot act on does not fill the screen; everything else is seen."""

import logging
import subprocess
import sys
import warnings

from trl_rsa._quiet import MESSAGES, WARNINGS, hush


def test_a_command_says_nothing_that_a_user_cannot_act_on():
    """A process of its own, which imports bitsandbytes: where the CPU has bfloat16 instructions, its message comes on
    import. The messages are sent again by hand, for other machines, and so is another one of the same library, which
    is seen."""
    code = (
        "import logging, warnings\n"
        "from trl_rsa.cli import main\n"
        "assert main(['doctor']) == 0\n"
        "for name, text in {'bitsandbytes.backends.cpu.ops': 'Failed to load CPU gemm_4bit_forward: %s',\n"
        "                   'DeepSpeed': 'Setting accelerator to CPU. %s'}.items():\n"
        "    logging.getLogger(name).warning(text, 'x')\n"
        "warnings.warn('`gradient_checkpointing` is deprecated and', FutureWarning)\n"
        "logging.getLogger('bitsandbytes.backends.cpu.ops').warning('your weights are broken')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert result.stderr == "your weights are broken\n"
    assert "trl-rsa" in result.stdout


def test_hush_drops_these_and_no_others(monkeypatch):
    """It may be called again."""
    seen = []
    keep = logging.Handler()
    keep.emit = lambda record: seen.append(record.getMessage())
    hush()
    hush()
    for name, beginnings in MESSAGES.items():
        logger, ours = logging.getLogger(name), logging.getLogger("trl_rsa")
        for one in (logger, ours):
            monkeypatch.setattr(one, "handlers", [keep])
            monkeypatch.setattr(one, "propagate", False)
        assert len([one for one in logger.filters if hasattr(one, "beginnings")]) == 1
        for beginning in beginnings:
            seen.clear()
            logger.warning("%s and more", beginning)
            logger.warning("but %s", beginning)
            ours.warning("%s of ours", beginning)
            assert seen == [f"but {beginning}", f"{beginning} of ours"]


def test_warnings_too():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        hush()
        for beginning in WARNINGS:
            warnings.warn(f"{beginning} and more", FutureWarning, stacklevel=1)
            warnings.warn(f"{beginning} and more", UserWarning, stacklevel=1)
        warnings.warn("other", FutureWarning, stacklevel=1)
    assert [str(one.message) for one in seen] == [*(f"{beginning} and more" for beginning in WARNINGS), "other"]
