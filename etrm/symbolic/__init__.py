"""The symbolic solver: formulas over grids and their evaluation. ``docs/symbolic.md`` has the language."""

from etrm.symbolic.evaluate import Evaluator as Evaluator
from etrm.symbolic.evaluate import apply as apply
from etrm.symbolic.evaluate import truth as truth
from etrm.symbolic.formula import Formula as Formula
from etrm.symbolic.formula import Rule as Rule
from etrm.symbolic.grids import Grids as Grids
from etrm.symbolic.parser import parse as parse
from etrm.symbolic.parser import parse_formula as parse_formula
from etrm.symbolic.predicates import Predicates as Predicates
from etrm.symbolic.semantics import Semantics as Semantics
