"""The parts of the bench, in the order of the document. A new one is a line here."""

from benchmarks.performance.evaluation import evaluation
from benchmarks.performance.feeding import feeding
from benchmarks.performance.growth import growth
from benchmarks.performance.layout import layout
from benchmarks.performance.peers import peers
from benchmarks.performance.published import published
from benchmarks.performance.section import Benchmark
from benchmarks.performance.throughput import throughput
from benchmarks.performance.watching import watching

PARTS = (
    Benchmark("layout", "Training against the published layout, D 64", layout(64)),
    Benchmark("layout-wide", "Training against the published layout, D 128", layout(128), repetitions=3),
    Benchmark("published", "The published mode against a plain implementation", published),
    Benchmark(
        "evaluation", "Evaluation: one context per sample, rows that leave early", evaluation, repetitions=3
    ),
    Benchmark("throughput", "Matrix throughput over the machine's peak", throughput, repetitions=3),
    Benchmark("feeding", "Processes that draw samples ahead", feeding),
    Benchmark("growth", "How time and memory grow", growth),
    Benchmark("watching", "What watching a training step costs", watching, repetitions=40),
    Benchmark("peers", "What watching costs with other packages", peers, repetitions=40),
)
