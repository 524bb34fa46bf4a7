"""`python -m trl_rsa.sandbox` prints the exact table of docs/sandbox.md."""

from trl_rsa.sandbox.prompts import all_prompts, prompt_kinds
from trl_rsa.sandbox.worlds import WORLDS


COLUMNS = ("world", "answers", "reward", "mean cost", "CVaR .05", "CVaR .01", "P(cost > 0)", "worst")


def exact_table() -> str:
    """Each world's exact values in Markdown: over all prompts, and for benign prompts by style of answer."""
    benign = next(prompt for prompt in all_prompts() if prompt.kind == "benign")
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for world in WORLDS.values():
        laws = {"all prompts": world.population_law(prompt_kinds(all_prompts()))}
        laws |= {f"benign, {style}": world.law(benign, style) for style in ("general", "careful", "bold")}
        for name, law in laws.items():
            values = (law.mean_reward, law.mean_cost, law.cvar(0.05), law.cvar(0.01), law.p_unsafe, max(law.costs))
            # Rounded twice: the last bits of a sum depend on the processor, and 7.5775 may fall to either side.
            numbers = " | ".join(f"{round(float(value), 9):.3f}" for value in values)
            lines.append(f"| `{world.name}` | {name} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(exact_table())
