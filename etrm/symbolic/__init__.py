"""The symbolic solver: formulas over grids, and a model that chooses among them (``docs/symbolic.md``)."""

from etrm.symbolic.formula import Formula as Formula
from etrm.symbolic.formula import Rule as Rule
from etrm.symbolic.grids import Grids as Grids
from etrm.symbolic.library import Library as Library
from etrm.symbolic.parser import parse as parse
from etrm.symbolic.parser import parse_formula as parse_formula
from etrm.symbolic.predicates import Predicates as Predicates
from etrm.symbolic.search import Explanation as Explanation
from etrm.symbolic.search import apply_crisply as apply_crisply
from etrm.symbolic.search import rank_rules as rank_rules
from etrm.symbolic.semantics import Semantics as Semantics
from etrm.symbolic.solver import Demonstrations as Demonstrations
from etrm.symbolic.solver import Solution as Solution
from etrm.symbolic.solver import SymbolicSolver as SymbolicSolver
from etrm.symbolic.tensor_evaluator import Evaluator as Evaluator
from etrm.symbolic.tensor_evaluator import apply_rule as apply_rule
from etrm.symbolic.tensor_evaluator import evaluate_formula as evaluate_formula
