#!/usr/bin/env python3
"""NVIDIA's compute-sanitizer over the CUDA kernels: memcheck, racecheck and initcheck, several programs side by side.

    tests/sanitize_gpu.py [--bin build/release/bin] [--tool memcheck]... [--only SUITE]... [--jobs 4] [--within 3600]

A suite is a test program and those of its cases that take each kernel at a small shape. Prints a line for each tool and
suite: cases that ran, errors, seconds. Exits with 1 if there is an error, a case fails, is skipped or does not end in time,
and with 2 if nothing can run here. Everything that was said is in --logs.

What is looked at:
- WICK_ARENA=off: each tensor is an allocation of the driver's. In the arena, memory behind a tensor is another's.
- memcheck and racecheck look at our kernels only (namespace wick::cuda). A library's kernels are their makers' matter, and
  launching them unobserved takes a fraction of the time.
- initcheck has to see all kernels, or what a library writes would count as never written. Only reports on our kernels
  are errors here; those on other kernels and on copies are counted as "elsewhere". Where a kernel of ours is reported that reads
  a library's result, look first whether the tool saw it written: it may not know every way in which Hopper stores.
- racecheck's errors count as errors, its warnings are counted and shown. It is by far the slowest; --tool and --only run a part.
  Where it ends with an internal error of its own, nothing has been shown of the kernels that were running.
"""

import argparse
import concurrent.futures
import dataclasses
import fnmatch
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

TOOLS = ["racecheck", "memcheck", "initcheck"]  # the slowest first
ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Suite:
    program: str
    cases: str  # a filter of googletest
    shards: int = 1  # processes that share the cases
    leave_out: dict = dataclasses.field(default_factory=dict)  # by tool, more of the filter


# Rows in part of a warp, a warp, a block of both kinds, a cluster of 2, 4 and 8, and rows in several passes; then heads.
ROWS = ":".join(f"*/{size}" for size in (
    "3_7_dense", "33_40_odd", "65_1024_dense", "1000_2040_gaps", "1200_2048_gaps", "7_4096_dense", "3_16384_gaps",
    "400_8192_gaps", "5_16392_gaps", "1_24576_gaps", "1_151936_dense", "3_50257_dense", "2_262144_dense",
    "72_40_odd", "120_256_dense", "48_1032_gaps"))

SUITES = {
    # All ops, in every dtype and layout, fused and as composites of primitives. The loss of vocabularies that are no multiple of
    # four reads a last pack of logits that reaches behind them, and drops what is there.
    "ops": Suite("op_matrix_test", "*MatchesTheF64Composite*", 8, {"initcheck": "*linear_cross_entropy*"}),
    "rows": Suite("rows_cuda_test", ROWS, 4),
    # By blocks in a cluster: 1, 2, 8, 8 with more in each thread, a block in passes. 300007 is no multiple of four.
    "cross_entropy": Suite("cross_entropy_cuda_test", "*MatchesSumsInDouble/1000_*:*MatchesSumsInDouble/32000_*:"
                           "*MatchesSumsInDouble/151936_*:*MatchesSumsInDouble/262144_*:*MatchesSumsInDouble/300007_*", 5,
                           {"initcheck": "*300007_*"}),
    "gemv": Suite("gemv_cuda_test", "*MatchesSumsInDouble/bf16_bf16:*MatchesSumsInDouble/f16_f32", 2),
    "gemm_resident": Suite("gemm_resident_cuda_test", "*TakesStridedRows*:*KeepsSmallValues*"),
    "gemm_norm": Suite("gemm_norm_cuda_test", "GemmNorm.TakesStridedRows*"),
    "lora_products": Suite("lora_products_test", "*OfManyTiles/bf16:*AreTheSameBytesEachTime/f16:*MatchSumsInDouble/bf16", 3),
    "lora_refresh": Suite("lora_refresh_test", "*OfManyWeightsIsThatOfEach*"),
    # initcheck: attention_append loads the cache's row that it is about to write, and drops what is there.
    "decode": Suite("decode_test", "*BehindACacheIsWithoutOne/llama_gqa_bf16_fused:*SoItIsWithAnAdapter/qwen3_qknorm_bf16_fused:"
                    "*ARecordedPassAppendsWithEachReplay/qwen2_untied_bf16_fused:"
                    "*ChoosesTheTokensThatTheHostWouldChoose/llama_gqa_f32_fused", 2, {"initcheck": "*"}),
    "sampler": Suite("device_sampler_test", "*/of_1_everything:*/of_2_top_p_with_ties:*/of_5_greedy:*/of_5_top_k:*/of_1_min_p"),
    "embedding": Suite("embedding_cuda_test", "*GivesTheVectorsOfSentenceTransformers"),
}


@dataclasses.dataclass
class Job:
    tool: str
    name: str
    suite: Suite
    shard: int


@dataclasses.dataclass
class Outcome:
    announced: int = 0
    passed: int = 0
    skipped: int = 0
    failed: int = 0
    errors: int = 0
    warnings: int = 0
    elsewhere: int = 0
    seconds: float = 0
    problems: list = dataclasses.field(default_factory=list)
    reports: dict = dataclasses.field(default_factory=dict)

    def add(self, other):
        for field in ("announced", "passed", "skipped", "failed", "errors", "warnings", "elsewhere", "seconds"):
            setattr(self, field, getattr(self, field) + getattr(other, field))
        self.problems += [p for p in other.problems if p not in self.problems]
        for text, count in other.reports.items():
            self.reports[text] = self.reports.get(text, 0) + count

    @property
    def good(self):
        return self.errors == 0 and not self.problems and self.passed == self.announced > 0


def sanitizer_options(tool, known):
    """`known`: what the program says of its options, which have changed their names."""
    options = ["--tool", tool, "--show-backtrace", "no", "--print-limit", "10000"]
    if tool != "initcheck":
        options += ["--kernel-name" if "--kernel-name" in known else "--kernel-regex", "kns=4wick4cuda"]  # mangled
    if tool == "memcheck":  # the program looks at what calls return; some ask what a device can do
        options += ["--report-api-errors", "no"]
    if tool == "racecheck":
        options += ["--racecheck-report", "analysis"]
        if "--racecheck-detect-level" in known:
            options += ["--racecheck-detect-level", "warn"]
    if "--launch-timeout" in known:
        options += ["--launch-timeout", "60"]
    return options


def reports_in(said):
    """What the tool reports: pairs of what it says and in which kernel ("" where it names none)."""
    found = []
    for text in re.findall(r"^=========( .*)", said, re.M):
        where = re.match(r"\s{2,}(?:at|and) (.*)", text)
        if where and found and not found[-1][1]:
            found[-1][1] = re.sub(r"(\+0x[0-9a-f]+.*| in \S+:\d+)$", "", where[1])
        elif re.match(r" \S", text) and not re.match(r" (COMPUTE-SANITIZER|(ERROR|RACECHECK|LEAK) SUMMARY)", text):
            found.append([re.sub(r" (of size|at 0x).*", "", text.strip())[:200], ""])
    return found


def cases_of(program, suite, tool):
    """The names of the cases that the suite has with a tool, and the patterns of its filter that fit none."""
    listed, group = [], ""
    said = subprocess.run([str(program), "--gtest_list_tests"], capture_output=True, text=True).stdout
    for line in said.splitlines():
        name = line.split("#")[0].rstrip()
        if name.startswith("  "):
            listed.append(group + name.strip())
        else:
            group = name
    patterns = suite.cases.split(":")
    out = suite.leave_out.get(tool)
    idle = [p for p in patterns + [out] * bool(out) if not fnmatch.filter(listed, p)]
    chosen = [name for name in listed if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    return [name for name in chosen if not out or not fnmatch.fnmatchcase(name, out)], idle


def judge(tool, said, outcome):
    """Counts cases and reports in the output of a run."""
    announced = re.search(r"Running (\d+) tests? from", said)
    outcome.announced = int(announced[1]) if announced else 0
    # What the tool prints may follow on the same line.
    outcome.skipped = len(re.findall(r"^\[  SKIPPED \] .*\(\d+ ms\)", said, re.M))
    outcome.passed = len(re.findall(r"^\[       OK \] .*\(\d+ ms\)", said, re.M))
    outcome.failed = len(re.findall(r"^\[  FAILED  \] .*\(\d+ ms\)", said, re.M))
    if not announced:
        outcome.problems.append("no case began")
    elif outcome.announced > outcome.passed + outcome.skipped + outcome.failed:
        left = outcome.announced - outcome.passed - outcome.skipped - outcome.failed
        outcome.problems.append(f"{left} did not end")

    reports = reports_in(said)
    summary = re.search(r"RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?, (\d+) warnings?\)", said)
    if summary:
        outcome.errors, outcome.warnings = int(summary[1]), int(summary[2])
    elif summary := re.search(r"ERROR SUMMARY: (\d+) errors?", said):
        outcome.errors = int(summary[1])
        if tool == "initcheck":
            outcome.elsewhere = sum("wick::cuda" not in where and "4wick4cuda" not in where for _, where in reports)
            outcome.errors = max(0, outcome.errors - outcome.elsewhere)
    else:
        complaint = re.search(r"^========= (Error.*)", said, re.M)
        outcome.problems.append(f"the tool gave no summary{': ' + complaint[1] if complaint else ''}")
    for text, where in reports:
        line = f"{text} in {where[:140]}" if where else text
        outcome.reports[line] = outcome.reports.get(line, 0) + 1


class Runner:
    def __init__(self, options, known):
        self.options, self.known = options, known
        self.end = time.monotonic() + options.within
        self.slots = list(range(options.jobs))  # of ports: those of two programs must not meet
        self.lock = threading.Lock()

    def __call__(self, job):
        with self.lock:
            slot = self.slots.pop()
        try:
            return self.run(job, slot)
        finally:
            with self.lock:
                self.slots.append(slot)

    def run(self, job, slot):
        o, outcome = self.options, Outcome()
        program = o.bin / job.suite.program
        limit = min(o.limit, self.end - time.monotonic())
        if limit < 1:
            outcome.problems.append("no time was left: did not run")
            return outcome
        command = [o.sanitizer, *sanitizer_options(job.tool, self.known)]
        if "--port" in self.known:
            command += ["--port", str(49152 + 32 * slot)]
        out = job.suite.leave_out.get(job.tool)
        command += [str(program), f"--gtest_filter={job.suite.cases}{':-' + out if out else ''}", "--gtest_color=no"]
        environment = dict(os.environ, WICK_TEST_DEVICE="cuda", WICK_ARENA="off", WICK_GEMM_TUNING="off",
                           OMP_WAIT_POLICY="passive", OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 1) // o.jobs)),
                           GTEST_TOTAL_SHARDS=str(job.suite.shards), GTEST_SHARD_INDEX=str(job.shard))
        log = o.logs / f"{job.tool}.{job.name}.{job.shard}.log"
        start = time.monotonic()
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       env=environment, start_new_session=True)
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                outcome.problems.append(f"not done after {limit:.0f} s")
        outcome.seconds = time.monotonic() - start
        judge(job.tool, log.read_text(errors="replace"), outcome)
        if process.returncode != 0 and outcome.good:
            outcome.problems.append(f"exit code {process.returncode}")
        return outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help="where the test programs are")
    parser.add_argument("--sanitizer", default="compute-sanitizer")
    parser.add_argument("--tool", action="append", choices=TOOLS)
    parser.add_argument("--only", action="append", choices=SUITES, metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("--jobs", type=int, default=4, help="processes side by side: they share the GPU by turns")
    parser.add_argument("--limit", type=float, default=900, help="seconds for a process")
    parser.add_argument("--within", type=float, default=3600, help="seconds for everything")
    parser.add_argument("--logs", type=pathlib.Path, help="a folder; a new one by default")
    options = parser.parse_args()
    options.logs = options.logs or pathlib.Path(tempfile.mkdtemp(prefix="sanitize-gpu-"))
    options.logs.mkdir(parents=True, exist_ok=True)
    found = shutil.which(options.sanitizer) or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if found is None:
        print(f"{options.sanitizer} is not in PATH (it comes with the CUDA toolkit): nothing was checked", file=sys.stderr)
        return 2
    options.sanitizer = found
    absent = sorted({s.program for s in SUITES.values() if not (options.bin / s.program).exists()})
    if absent:
        print(f"{options.bin} has no {', '.join(absent)}: nothing was checked", file=sys.stderr)
        return 2
    known = subprocess.run([found, "--help"], capture_output=True, text=True).stdout

    jobs = [Job(tool, name, suite, shard)
            for tool in TOOLS if not options.tool or tool in options.tool
            for name, suite in SUITES.items() if not options.only or name in options.only
            if suite.leave_out.get(tool) != "*"
            for shard in range(suite.shards)]
    runner = Runner(options, known)
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(runner, jobs))

    totals = {}
    for job, outcome in zip(jobs, outcomes):
        totals.setdefault((job.tool, job.name), Outcome()).add(outcome)
    for (tool, name), o in totals.items():
        cases, idle = cases_of(options.bin / SUITES[name].program, SUITES[name], tool)
        o.announced = len(cases)  # also those of processes that did not come to announce them
        o.problems += [f"no case is called {pattern}" for pattern in idle]
    print(f"{'tool':9} {'suite':14} {'cases':>9} {'errors':>6} {'seconds':>7}")
    for (tool, name), o in totals.items():
        counts = {"failed": o.failed, "skipped: did not run": o.skipped, "warnings": o.warnings, "elsewhere": o.elsewhere}
        more = [f"{count} {what}" for what, count in counts.items() if count] + o.problems
        print(f"{tool:9} {name:14} {f'{o.passed}/{o.announced}':>9} {o.errors:6} {o.seconds:7.0f}  {'; '.join(more)}".rstrip())
        for text, count in sorted(o.reports.items(), key=lambda item: -item[1])[:6]:
            print(f"{'':24} {count} x {text}")
    bad = [key for key, o in totals.items() if not o.good]
    print(f"{len(totals)} suites in {time.monotonic() - start:.0f} s, {len(bad)} not clean; logs in {options.logs}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
