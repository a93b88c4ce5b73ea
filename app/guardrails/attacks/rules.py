"""What an attack sounds like: weighted patterns over the parts of `lexicon.py`.

A pattern over parts sees one letter for each word, ``.`` for any other word, ``,`` and ``:`` where
they stand and ``|`` at the end of a sentence. Gaps are bounded, so matching is linear. Weights of
rules of different names that meet in one stretch add up as chances do: ``1 - (1 - a) * (1 - b)``;
of those of one name the greatest counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.guardrails.attacks.lexicon import mask

INJECTION = "PROMPT_INJECTION"
LEAK = "SYSTEM_PROMPT_LEAK"


@dataclass(frozen=True, slots=True)
class Rule:
    """``needs``: groups of parts, as masks; every match has one of each. ``rarest``: the least."""

    name: str
    entity: str
    weight: float
    rarest: int
    needs: tuple[int, ...]
    pattern: re.Pattern[str]
    untrusted_only: bool = False


def _rule(
    name: str, entity: str, weight: float, needs: str, pattern: str, *, untrusted: bool = False
) -> Rule:
    # `_{0,3}`: up to three words of the same sentence, as few as will do
    filled = re.sub(r"(_|\[\^\|\w,:~]+\])(\{\d+,\d+\})", r"\1\2?", pattern).replace("_", "[^|]")
    groups = tuple(mask(group) for group in needs.split())
    rarest = min(groups, key=int.bit_count)
    return Rule(name, entity, weight, rarest, groups, re.compile(filled), untrusted)


# "don't forget the rules" and "later rules will override all rules before" set nothing aside
_NOT_DONT = r"(?<!N)(?<!N\.)(?<!N>)(?<!N\.>)(?<!~)(?<!~\.)(?<!T)(?<!T\.)"
_BOUND = "[TQHs]"  # what binds a model
RULES: tuple[Rule, ...] = (
    # instructions set aside
    _rule(
        "override",
        INJECTION,
        0.85,
        "V PAxYSGU TQHs",
        rf"{_NOT_DONT}V(?:_{{0,3}}[PAxYS]_{{0,3}}{_BOUND}|_{{0,3}}{_BOUND}_{{0,3}}[PGU])",
    ),
    _rule(
        "override",
        INJECTION,
        0.7,
        "v PYSGU TQHs",
        rf"{_NOT_DONT}v(?:_{{0,3}}[PYS]_{{0,3}}{_BOUND}|_{{0,3}}{_BOUND}_{{0,3}}U_{{0,3}}G)",
    ),
    _rule("override", INJECTION, 0.4, "V TQHs", rf"{_NOT_DONT}V_{{0,3}}{_BOUND}"),
    _rule(
        "override",
        INJECTION,
        0.8,
        "V Ax PG",
        rf"{_NOT_DONT}V_{{0,2}}(?:[Ax]_{{0,6}}G|x_{{0,2}}P)",
    ),
    _rule("override", INJECTION, 0.3, "v Ax THs", rf"{_NOT_DONT}v_{{0,2}}[Ax]_{{0,3}}[THs]"),
    _rule(
        "override",
        INJECTION,
        0.75,
        "V S o",
        rf"{_NOT_DONT}V_{{0,4}}S_{{0,1}}o",
    ),
    _rule(
        "do not follow",
        INJECTION,
        0.75,
        "NW F PYSGU TQHs",
        rf"[NW][^|V]{{0,3}}F(?:_{{0,4}}[YS]_{{0,3}}{_BOUND}|_{{0,5}}{_BOUND}_{{0,3}}[PGYSU]"
        rf"|_{{0,3}}P_{{0,2}}{_BOUND})",
    ),
    _rule("follow not", INJECTION, 0.65, "F PY TQ N", r"F_{0,3}[PY]_{0,2}[TQ]_{0,3}N"),
    _rule(
        "no longer bound",
        INJECTION,
        0.7,
        "U N F TQHsS",
        rf"U_{{0,2}}N_{{0,4}}F_{{0,6}}(?:{_BOUND}|S)",
    ),
    _rule("override", INJECTION, 0.75, "V U G", rf"{_NOT_DONT}V_{{0,4}}U_{{0,4}}G"),
    _rule("override", INJECTION, 0.6, "V T s", rf"{_NOT_DONT}V_{{0,3}}T_{{0,2}}s"),
    _rule("do not follow", INJECTION, 0.6, "N F U TQHs", r"N_{0,2}F_{0,2}U_{0,2}[TQHs]"),
    _rule("your rules not", INJECTION, 0.45, "U N YU TQHs", r"U_{0,2}N_{0,5}[YU]_{0,2}[TQHs]"),
    _rule("declared void", INJECTION, 0.7, "Y TQHs N F", r"Y_{0,3}[TQHs]_{0,5}N_{0,2}F"),
    _rule("declared void", INJECTION, 0.5, "P TQHs N F", r"P_{0,2}[TQHs]_{0,3}N_{0,2}F"),
    _rule("follow not", INJECTION, 0.6, "F Y TQHs N", r"F_{0,2}Y_{0,2}[TQHs]_{0,3}N"),
    _rule("declared void", INJECTION, 0.75, "YU TQHs O", rf"Y_{{0,3}}{_BOUND}_{{0,8}}O"),
    _rule("orders void", INJECTION, 0.45, "PAx T O", r"[PAx]_{0,3}T_{0,6}O|T_{0,5}P_{0,2}O"),
    _rule(
        "what you were given is no longer valid",
        INJECTION,
        0.75,
        "TQ U G NWO",
        r"[TQ]_{0,3}U_{0,2}G_{0,5}(?:[NW]_{0,3}F|O)",
    ),
    _rule("orders void", INJECTION, 0.5, "A T P O", r"A_{0,2}T_{0,1}P_{0,4}O"),
    _rule("its own rules", INJECTION, 0.25, "YU TQs", r"Y_{0,2}[TQs]|U[TQs]"),
    _rule("skip rules", INJECTION, 0.3, "v T", rf"{_NOT_DONT}v_{{0,2}}T"),
    _rule("new orders", INJECTION, 0.45, "n TQ :", r"n_{0,2}[TQ]_{0,2}:"),
    _rule("new task", INJECTION, 0.5, "Y nq", r"Yn_{0,1}[Tq]|Y_{0,1}q_{0,4}(?:changed|[nz])"),
    # a role without rules
    _rule(
        "persona without limits",
        INJECTION,
        0.75,
        "JUY I",
        r"(?:J|Ue|Y)_{0,9}I",
    ),
    _rule(
        "persona without rules",
        INJECTION,
        0.7,
        "JU WN THs",
        r"(?:J_{0,9}|Ue_{0,5})[WN]_{0,3}[THs]",
    ),
    _rule("model without limits", INJECTION, 0.55, "Mgk WI", r"[Mgk]_{0,5}(?:I|W_{0,2}[Hs])"),
    _rule("you have no limits", INJECTION, 0.55, "U W THs", r"U_{0,3}W_{0,2}[THs]"),
    _rule("answer without limits", INJECTION, 0.6, "a W HsX", r"a_{0,5}W_{0,3}[HsX]"),
    _rule("special mode", INJECTION, 0.35, "SI D", r"[SI]D"),
    _rule("limits off", INJECTION, 0.35, "Hs WO", r"[Hs]_{0,4}[WO]|W_{0,1}[Hs]"),
    _rule("limits off", INJECTION, 0.5, "s WO", r"s_{0,3}O|W_{0,1}s_{0,1}[TH]"),
    _rule("limits off", INJECTION, 0.5, "v s", rf"{_NOT_DONT}v_{{0,3}}s"),
    _rule("answer everything", INJECTION, 0.3, "a Ax", r"a_{0,2}[Ax]"),
    _rule("never refuse", INJECTION, 0.4, "NW X", r"[NW]_{0,3}X"),
    _rule("never refuse, twice", INJECTION, 0.5, "NW X", r"[NW]_{0,3}X.{0,8}[NW]_{0,3}X"),
    _rule("harm in a role", INJECTION, 0.6, "J h", r"J[^|]{0,40}h"),
    _rule("harm in a story", INJECTION, 0.4, "f h", r"f[^|]{0,40}h"),
    # the model's own instructions asked for
    _rule(
        "reveal",
        LEAK,
        0.8,
        "RrE YU Q",
        r"[RrE][^|i]{0,6}[YU][^|i]{0,3}Q|[Rr][^|i]{0,6}Q_{0,3}U_{0,3}G",
    ),
    _rule("reveal", LEAK, 0.65, "Rr S Q", r"(?<!i)[Rr][^|i]{0,5}S[^|i]{0,1}Q"),
    _rule("what is your prompt", LEAK, 0.75, "w YU Q", r"w_{0,2}[YU]_{0,2}Q"),
    _rule(
        "reveal",
        LEAK,
        0.75,
        "RrE YU SP T",
        r"[RrE][^|i]{0,6}[YU][^|i]{0,2}[SP][^|i]{0,2}T",
    ),
    _rule("reveal", LEAK, 0.6, "RrE YU T", r"[RrE][^|i]{0,6}[YU][^|i]{0,2}T(?!_{0,1}p)"),
    _rule("what is your prompt", LEAK, 0.7, "w Y S o", r"w_{0,4}Y_{0,1}S_{0,1}o"),
    _rule("reveal", LEAK, 0.5, "RrE Y H", r"[RrE][^|i]{0,4}Y_{0,1}H(?!_{0,1}p)"),
    _rule("what is your prompt", LEAK, 0.5, "w YUS T",
          r"w_{0,2}Y_{0,1}T(?!_{0,1}p)|w_{0,1}UT|w_{0,2}TS"),
    _rule("rules of yours", LEAK, 0.5, "w TQ >p U", r"w_{0,4}[TQ]_{0,6}[>p]U(?:\||$)"),
    _rule(
        "all of your instructions",
        LEAK,
        0.35,
        "RrE L YU TQ",
        r"[RrE][^|i]{0,4}L[^|i]{0,5}[YU]_{0,2}[TQ]",
    ),
    _rule(
        "reveal what you were given",
        LEAK,
        0.7,
        "RrE TQ UG",
        r"[RrE][^|i]{0,6}[TQ]_{0,4}(?:U_{0,4}G|G_{0,3}U|U_{0,3}(?:operate|run))",
    ),
    _rule(
        "what were you told",
        LEAK,
        0.6,
        "w U G",
        r"w_{0,4}[TQ]_{0,5}(?:U_{0,4}G|G_{0,2}U|Y_{0,3}G)|w_{0,3}U_{0,2}G_{0,4}P",
    ),
    _rule("what stands above", LEAK, 0.45, "r AxWo P", r"(?<!i)r_{0,4}[AxWo]_{0,3}P"),
    _rule("what stands above", LEAK, 0.3, "r P", r"(?<!i)r_{0,3}P"),
    _rule("what stands above", LEAK, 0.3, "R x P", r"R_{0,3}x_{0,2}P"),
    _rule("reveal", LEAK, 0.75, "RrE Y S o", r"[RrE][^|i]{0,5}Y_{0,1}S_{0,1}o"),
    _rule("reveal", LEAK, 0.45, "RrE S o", r"[RrE][^|i]{0,5}(?:S_{0,2}o|o_{0,2}S)"),
    _rule("reveal what you were given", LEAK, 0.5, "RrE TQ G", r"[RrE][^|i]{0,6}[TQ]\.G"),
    _rule("word for word", LEAK, 0.25, "RrEw L", r"[RrEw]_{0,9}L|L_{0,6}[RrE]"),
    # a document that speaks to the model
    _rule(
        "model addressed",
        INJECTION,
        0.6,
        "Mg ,: VRraJFN",
        r"(?<!i)[Mg][^|,:m~]{0,5}[,:](?:[^|]{0,5}(?<![m~>])[VRraJF]|[^|]?N)",
        untrusted=True,
    ),
    _rule(
        "model addressed",
        INJECTION,
        0.45,
        "Mgk ,: VRraJFNEc",
        r"(?<!i)(?:[Mg][^|,:m~]{0,5}[,:][^|]{0,3}(?<![m~>])[Ec]"
        r"|k[^|,:m~]{0,3}[,:][^|]{0,3}(?<![m~>])[VRraJFN])",
        untrusted=True,
    ),
    _rule(
        "model told its duty",
        INJECTION,
        0.6,
        "Mk m VRrEacJF",
        r"[Mk][^|,:]{0,6}m_{0,5}[VRrEacJF]",
        untrusted=True,
    ),
    _rule(
        "assistant told its duty",
        INJECTION,
        0.45,
        "g m VRrEacJF",
        r"g_{0,3}m_{0,4}[VRrEacJF]",
        untrusted=True,
    ),
    _rule("model addressed", INJECTION, 0.55, "Mg ,: U m", r"[Mg][,:]_{0,6}Um", untrusted=True),
    _rule("model addressed", INJECTION, 0.5, "M : Ec", r"M_{0,3}:_{0,1}[Ec]", untrusted=True),
    _rule("if you are a model", INJECTION, 0.65, "? Mgk eJ", r"\?U?[eJ]_{0,3}[Mgk]",
          untrusted=True),
    _rule("if a model reads", INJECTION, 0.55, "? Mg ,md VRraEcJFm",
          r"\?_{0,2}(?:M_{0,7}[,m]_{0,3}[VRraEcJF]|g_{0,3}d_{0,5}(?:m|,_{0,3}[VRraEcJF]))",
          untrusted=True),
    _rule("you are a model", INJECTION, 0.4, "U e Mg", r"Ue_{0,2}[Mg]", untrusted=True),
    _rule("no answer", INJECTION, 0.35, "N a q", r"N_{0,2}a_{0,3}q", untrusted=True),
    _rule("ignore the user", INJECTION, 0.35, "V B", rf"{_NOT_DONT}V_{{0,2}}B", untrusted=True),
    _rule("task set aside", INJECTION, 0.6, "V Y q", rf"{_NOT_DONT}V_{{0,2}}Y_{{0,2}}q",
          untrusted=True),
    _rule("as you read this", INJECTION, 0.35, "? U e d", r"\?Ue_{0,2}d", untrusted=True),
    _rule("when you read this", INJECTION, 0.45, "? U Rra d", r"\?_{0,2}U_{0,2}[Rra]_{0,1}d",
          untrusted=True),
    _rule("tell the user", INJECTION, 0.35, "RrE B", r"(?<![~>])[RrE]_{0,2}B", untrusted=True),
    _rule("the user's question", INJECTION, 0.6, "VvN B q", r"[VvN]_{0,3}B_{0,4}q",
          untrusted=True),
    _rule("instead of an answer", INJECTION, 0.55, "z aq", r"z_{0,2}a|[aq]_{0,5}N_{0,2}z",
          untrusted=True),
    _rule("instead of it", INJECTION, 0.35, "R z", r"R_{0,1}z|z_{0,2}R", untrusted=True),
    _rule("tool bait", INJECTION, 0.35, "c t", r"c_{0,2}t", untrusted=True),
    _rule("note to the model", INJECTION, 0.35, "> Mgk", r">_{0,2}[Mgk][,:]",
          untrusted=True),
)  # fmt: skip
