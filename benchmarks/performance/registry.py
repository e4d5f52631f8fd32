"""The benchmarks in the order of the document. A new one is a line here."""

from benchmarks.performance.model.evaluation import measure_evaluation
from benchmarks.performance.model.feeding import measure_feeding
from benchmarks.performance.model.formulas import compare_evaluators
from benchmarks.performance.model.growth import measure_growth
from benchmarks.performance.model.layout import compare_layouts
from benchmarks.performance.model.plain import LADDER
from benchmarks.performance.model.published import compare_published
from benchmarks.performance.model.throughput import measure_throughput
from benchmarks.performance.section import Benchmark
from benchmarks.performance.toolkit.peers import compare_peers
from benchmarks.performance.toolkit.watching import measure_watching
from benchmarks.performance.training.commits import compare_commits
from benchmarks.performance.training.runs import PAPER

PARTS = (
    Benchmark("layout", "Training against the published layout, D 64", compare_layouts(64)),
    Benchmark(
        "layout-wide",
        "Training against the published layout, D 128",
        compare_layouts(128),
        repetitions=3,
        in_full=False,
    ),
    Benchmark("commits", "Training steps of this commit and of aa7834e", compare_commits, repetitions=3),
    Benchmark(
        "published", "The published mode against a plain implementation", compare_published(), in_full=False
    ),
    Benchmark(
        "published-paper",
        "The published mode against a plain implementation, at the size of the paper",
        compare_published({"model": PAPER["model"]}, rows=1, ladder=LADDER[:2]),
        repetitions=2,
        in_full=False,
    ),
    Benchmark(
        "evaluation",
        "Evaluation: one context per sample, rows that leave early",
        measure_evaluation,
        repetitions=3,
        in_full=False,
    ),
    Benchmark(
        "throughput",
        "Matrix throughput over the machine's peak",
        measure_throughput,
        repetitions=3,
        in_full=False,
    ),
    Benchmark("feeding", "Processes that draw samples ahead", measure_feeding),
    Benchmark("formulas", "Formulas: all cells at once against a loop", compare_evaluators, repetitions=3),
    Benchmark("growth", "How time and memory grow", measure_growth, in_full=False),
    Benchmark("watching", "What watching a training step costs", measure_watching, repetitions=40),
    Benchmark("peers", "What watching costs with other packages", compare_peers, repetitions=40),
)
