"""Investigates a model, loss, loader and evaluator that are not of this project, through an adapter.

from etrm.investigation.own_model import ModelUnderTest, investigate_model
"""

from etrm.investigation.own_model.investigate_model import investigate_model as investigate_model
from etrm.investigation.own_model.model_under_test import ModelUnderTest as ModelUnderTest
from etrm.investigation.own_model.model_under_test import Pretrained as Pretrained
from etrm.investigation.own_model.model_under_test import until_backward as until_backward
