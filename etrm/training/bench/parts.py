"""The parts of the bench, in the order of the document. A new one is a line here."""

from etrm.training.bench.evaluation import evaluation
from etrm.training.bench.feeding import feeding
from etrm.training.bench.growth import growth
from etrm.training.bench.layout import layout
from etrm.training.bench.peers import peers
from etrm.training.bench.published import published
from etrm.training.bench.section import Part
from etrm.training.bench.throughput import throughput
from etrm.training.bench.watching import watching

PARTS = (
    Part("layout", "Training against the published layout, D 64", layout(64)),
    Part("layout-wide", "Training against the published layout, D 128", layout(128), repetitions=3),
    Part("published", "The published mode against a plain implementation", published),
    Part(
        "evaluation", "Evaluation: one context per sample, rows that leave early", evaluation, repetitions=3
    ),
    Part("throughput", "Matrix throughput over the machine's peak", throughput, repetitions=3),
    Part("feeding", "Processes that draw samples ahead", feeding),
    Part("growth", "How time and memory grow", growth),
    Part("watching", "What watching a training step costs", watching, repetitions=40),
    Part("peers", "What watching costs with other packages", peers, repetitions=40),
)
