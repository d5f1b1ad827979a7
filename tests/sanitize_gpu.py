#!/usr/bin/env python3
"""NVIDIA's compute-sanitizer over the CUDA kernels: racecheck, one program after the other on each GPU, memcheck and initcheck,
several side by side.

    tests/sanitize_gpu.py [--bin build/release/bin] [--tool memcheck]... [--only SUITE]... [--jobs 4] [--gpus N]
                          [--within 880] [--sanitizer compute-sanitizer] [--since 2026]
    tests/sanitize_gpu.py --list

A suite is a test program and those of its cases that take each kernel at a small shape; racecheck has a choice of its own.
Prints a line for each tool and suite as it ends: cases that ran, errors, seconds of its processes together. Exits with 1 if
there is an error, a case fails, is skipped or does not end in time, and with 2 if nothing can run here. Everything that was
said is in --logs. --list shows the cases and runs none.

What is looked at:
- WICK_LIBRARIES=off: all kernels are ours, and all are observed. With cuBLASLt's among them, left unobserved, racecheck has ended
  with an error of its own ("failed to handle a hardware exception"), and initcheck does not see what they write by TMA.
- WICK_ARENA=off: each tensor is an allocation of the driver's. In the arena, memory behind a tensor is another's.
- initcheck's reports on kernels are errors; those on copies, of columns between rows that nobody wrote, are counted as "elsewhere".
- racecheck's errors count as errors, its warnings are counted and shown. It is by far the slowest; --tool and --only run a part.
  It looks at shared memory alone, so that it leaves out what has none, and takes time for each access to it: its cases are
  the smallest that take a kernel's way, with a ring or a buffer that is used more than once. Where it ends with an internal
  error, nothing has been shown of the kernels that were running. It waits for ever where some warps of a block alone wait for
  a cluster, where a block of a cluster comes to a barrier after warps of it have ended, and where a block expects what others
  have sent already: no kernel does so with WICK_RACECHECK=on, which also keeps a kernel from beginning before the one ahead of
  it has ended. A deadlock that it names is an error. Suites of clusters have the host wait for each launch (CUDA_LAUNCH_BLOCKING):
  where others are queued behind it, one of a cluster can take minutes (outer products: 92 s without, 3 s with it).
- Even so a launch of a cluster may not end under it (2026.4): of the processes of decoding, which end within 6 s otherwise, about
  one in twelve was stopped on an H200, in a launch of attention of one query, the GPU busy, no deadlock named, each thread of the
  tool's at rest. In that kernel all threads of a cluster come to each of its barriers, without the tool it always ends, and
  synccheck finds nothing. So decoding runs without clusters under racecheck (WICK_RACECHECK=no-clusters), the op matrix has that
  kernel's cases in clusters, and a process of the op matrix that does not end is run again, up to --tries times, unless
  something was reported; the suite's line says so. A case counts when it has ended, clean.
- Clusters have 2 blocks at most with WICK_RACECHECK=on, 8 without: under racecheck a launch of 8 that fill their multiprocessors
  takes half a second to minutes. The code is the same for any number of blocks; memcheck and initcheck see the larger ones.
- From 2026 on it can look at the first cluster, or block, of a launch alone, and does unless --all-clusters says otherwise: all run
  the same code, and it takes a fifth of the time (12 s and 1.5 s for a loss of 16,388 words, alone on an H200).
- From 2026 on it has fixes for hazards that were none, around mbarriers, clusters and groups of warps, and since 2025.4
  initcheck sees what is copied by cp.async.bulk. A newer tool than the toolkit's, for --sanitizer: `pip install --target DIR
  nvidia-cuda-sanitizer-api` (13.5), DIR/nvidia/cu13/bin/compute-sanitizer.
- It counts an arrival at an mbarrier for the arriving thread alone: where one thread of a warp arrives for all, behind a
  __syncwarp() or a barrier of the warp, what the others wrote or read in shared memory by themselves counts as a hazard
  (2026.4). Each of them arrives, then, or the copy engine writes: whether that waits for what a warp reads it does not see.
- None looks at programmatic dependent launch: a kernel that reads before wait_for_previous() what the one ahead writes is not seen.
"""

import argparse
import bisect
import concurrent.futures
import dataclasses
import fnmatch
import math
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
ALONE = {"racecheck"}  # its kernels wait for the host: four processes that shared an H200 took 20 times as long as one
ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Suite:
    program: str
    cases: str  # a filter of googletest
    processes: int = 1  # that share the cases
    racecheck: str | None = None  # its own filter, "" for no case; None: the same
    seconds: float = 3  # that a case takes about, under racecheck
    initcheck_without: str = ""  # a filter of what it leaves out
    may_hang: bool = False  # the tool may not end a process under racecheck
    clusters: bool = False  # many launches have them: under racecheck the host waits for each
    no_clusters: bool = False  # under racecheck no launch has one

    def wanted(self, tool):
        return self.racecheck if tool == "racecheck" and self.racecheck is not None else self.cases

    def unwanted(self, tool):
        return self.initcheck_without if tool == "initcheck" else ""


def patterns(prefix, names):
    return ":".join(prefix + name for name in names.split())


# Each op's kernels: rows of few and of many columns, aligned and not, forward and backward, in every dtype and layout, and the
# composites of primitives. Names end in "_" and their number.
OPS = patterns("*EveryDTypeAndLayout/", """
    primitive_erf_? primitive_sum_last_? primitive_sum_middle_kept_? primitive_sum_all_?? primitive_dropout_?? primitive_max_??
    primitive_concat_?? primitive_matmul_batched_?? primitive_matmul_transposed_?? primitive_gather_rows_?? primitive_where_??
    rms_norm__5__257__?? rms_norm_heads_before_tokens_?? rms_norm_residual__2__3__64__?? linear__33__20__to_5_??
    lora_linear__33__24__17__16__separate_?? lora_linear_siblings_bordered_?? lora_linear_aligned_siblings_bordered_??
    lora_linear_dropout_??
    fused_linear_everything__1__72__38__??? fused_linear_everything__8__136__50__??? fused_linear_everything__11__24__18__???
    fused_linear_gelu__70__64__192__??? fused_linear_residual_and_norm_after__70__64__384__???
    fused_linear_adapters_bordered_5_???
    linear_cross_entropy_odd_??? linear_cross_entropy_smoothing_??? linear_cross_entropy_token_log_probs_of_6_???
    swiglu__5__257__??? swiglu_one_buffer__2__3__40__??? softmax_masked_??? softmax__5__257__??? layer_norm__33__40__???
    layer_norm_residual__5__257__??? layer_norm_tables_of_257_columns_???
    attention_causal_??? attention_odd_head_7_??? attention_head_64_??? attention_head_128_??? attention_head_256_???
    attention_packed_window_??? attention_short_packed_64_grouped_??? attention_decode_odd_??? attention_packed_decode_???
    attention_decode_1200_??? attention_borders_70_??? attention_borders_packed_???
    attention_append__1__14__2__64__to_6_??? attention_append__1__4__4__128__to_40_??? attention_append__1__2__1__64__to_2500_???
    attention_bias__packed_??? attention_bias__one_query_???
    adamw_odd_??? adamw_clipped_adamw_step_of_3_??? adamw_gradient_norm_of_8192_???
    gelu_exact__5__257__??? gelu_tanh__19__??? rope_positions__7__3__64__??? rope_append__7__8__4__24__to_20_???
    embedding_repeated_ids_??? embedding_one_id_200_times_???
    pool_mean_sequences_of_0_to_40_??? pool_max_sequences_of_0_to_40_??? l2_normalize__33__384__???
""")
# Those whose kernels have shared memory.
OPS_THAT_SHARE = patterns("*EveryDTypeAndLayout/", """
    primitive_sum_last_? primitive_sum_all_?? primitive_max_?? primitive_matmul_transposed_??
    rms_norm__5__257__?? rms_norm_residual__2__3__64__?? softmax__5__257__??? softmax_masked_??? layer_norm__33__40__???
    layer_norm_residual__5__257__??? layer_norm_tables_of_257_columns_???
    lora_linear_siblings_bordered_?? lora_linear_aligned_siblings_bordered_??
    fused_linear_everything__1__72__38__??? fused_linear_everything__8__136__50__??? fused_linear_everything__11__24__18__???
    fused_linear_gelu__70__64__192__??? fused_linear_residual_and_norm_after__70__64__384__???
    linear_cross_entropy_odd_??? linear_cross_entropy_token_log_probs_of_6_???
    attention_causal_??? attention_odd_head_7_??? attention_head_64_??? attention_head_128_??? attention_head_256_???
    attention_packed_window_??? attention_decode_odd_??? attention_packed_decode_??? attention_decode_1200_???
    attention_borders_140_grouped_??? attention_borders_packed_???
    attention_append__1__14__2__64__to_6_??? attention_append__1__4__4__128__to_40_??? attention_append__1__2__1__64__to_2500_???
    attention_bias__packed_??? attention_bias__one_query_???
    adamw_clipped_adamw_step_of_3_??? adamw_gradient_norm_of_8192_???
    embedding_repeated_ids_??? embedding_one_id_200_times_??? pool_mean_sequences_of_0_to_40_??? pool_max_sequences_of_0_to_40_???
""")
# Rows in part of a warp, a warp, a block of both kinds, a cluster of 2, 4 and 8 (2 under racecheck), and rows in several passes;
# then heads.
ROWS = patterns("*/", """
    3_7_dense 33_40_odd 65_1024_dense 1000_2040_gaps 1200_2048_gaps 7_4096_dense 3_16384_gaps 400_8192_gaps 5_16392_gaps
    1_24576_gaps 1_151936_dense 3_50257_dense 2_262144_dense 72_40_odd 120_256_dense 48_1032_gaps
""")

# Few rows in a block, in the kernels for many, in clusters, those of layer norm with two rows and with one, and in passes.
ROWS_THAT_SHARE = (
    patterns("*CudaRows.RmsNorm/", "3_7_dense 7_4096_dense 3_16384_gaps 5_16392_gaps 1_24576_gaps 2_40008_gaps 3_50257_dense")
    + ":" + patterns("*CudaRows.LayerNorm/", "7_4096_dense 5_16392_gaps 2_40008_gaps 3_50257_dense")
    + ":" + patterns("*CudaRows.Softmax/", "7_4096_dense 5_16392_gaps 1_24576_gaps 2_40008_gaps 3_50257_dense")
    + ":*CudaRowsOfAnyBatch.*:*CudaHeads.RmsNorm/48_1032_gaps")

SUITES = {
    # The loss of vocabularies that are no multiple of four reads a last pack of logits that reaches behind them, and drops what
    # is there.
    "ops": Suite("op_matrix_test", OPS, 6, OPS_THAT_SHARE, initcheck_without="*linear_cross_entropy*", may_hang=True),
    "rows": Suite("rows_cuda_test", ROWS, 4, ROWS_THAT_SHARE, 6, clusters=True),
    # By blocks in a cluster: 1, 2, 8, a block in passes. 300007 is no multiple of four. racecheck's by
    # blocks and packs in a thread: 1 and 2 blocks of 8 packs, 2 of 10 and of 16, in passes.
    "cross_entropy": Suite("cross_entropy_cuda_test", patterns("*ALabelThatIsNoWord*/", "1000_* 32000_* 151936_* 300007_*")
                           + ":*MatchesSumsInDouble/1000_*", 2,
                           patterns("*CudaLosses.MatchSumsInDouble/", "1000_* 16388_* 32772_* 49160_* 262147_*"), 6,
                           initcheck_without="*/300007_*"),
    "gemv": Suite("gemv_cuda_test", "*MatchesSumsInDouble/bf16_bf16", 1, "*AddsUpTurnByTurn/bf16_bf16", 8),
    "gemm": Suite("gemm_test", "*MatchesSumsInDouble/*", 2, patterns("*MatchesSumsInDouble/", "f64_f64 f32_f32 bf16_bf16"), 10),
    "gemm_resident": Suite("gemm_resident_cuda_test", "*TakesStridedRows*:*KeepsSmallValues*:*TakesTileAfterTile", 1,
                           "*TakesStridedRows*:*TakesTileAfterTile", 6),
    "attention_hopper": Suite("attention_hopper_cuda_test", "*MatchesSumsInDouble/*", 2, None, 10),
    "gemm_norm": Suite("gemm_norm_cuda_test", "GemmNorm.TakesStridedRows*:*TakesTileAfterTile", 1, None, 6),
    # initcheck does not see what lora_gemm stores by tensor maps, and takes reading it for an error.
    "lora_products": Suite("lora_products_test", "*OfManyTiles/bf16:*AreTheSameBytesEachTime/f16:*MatchSumsInDouble/bf16", 4,
                           "*AreAddedWhereTheyAreWanted/bf16:*OfFewBoxesMatch*/bf16:*MadeWithGMatch*/bf16:"
                           "*OfFlatMatricesMatch*/bf16", 5, initcheck_without="*OfManyTiles*", clusters=True),
    "lora_refresh": Suite("lora_refresh_test", "*OfManyWeightsIsThatOfEach/bf16", 1, ""),
    "decode": Suite("decode_test", "*BehindACacheIsWithoutOne/llama_gqa_bf16_fused:*SoItIsWithAnAdapter/qwen3_qknorm_bf16_fused:"
                    "*ARecordedPassAppendsWithEachReplay/qwen2_untied_bf16_fused:"
                    "*ChoosesTheTokensThatTheHostWouldChoose/llama_gqa_f32_fused", 2,
                    "*BehindACacheIsWithoutOne/llama_gqa_bf16_fused:*ARecordedPassAppendsWithEachReplay/qwen2_untied_bf16_fused",
                    12, no_clusters=True),
    "sampler": Suite("device_sampler_test", "*/of_31_everything:*/of_2_top_p_with_ties:*/of_5_greedy:*/of_1_min_p", 1, None, 5,
                     clusters=True),
    "embedding": Suite("embedding_cuda_test", "*GivesTheVectorsOfSentenceTransformers", 1, None, 15),
}


@dataclasses.dataclass
class Job:
    tool: str
    name: str
    suite: Suite
    number: int  # among those of the tool and the suite
    cases: list

    @property
    def weight(self):
        """About the seconds that it takes under racecheck, of which some are its start."""
        return 3 + self.suite.seconds * len(self.cases)


@dataclasses.dataclass
class Outcome:
    announced: int = 0
    passed: int = 0
    skipped: int = 0
    failed: int = 0
    errors: int = 0
    warnings: int = 0
    elsewhere: int = 0
    again: int = 0  # processes that did not end, and were run once more
    seconds: float = 0
    problems: list = dataclasses.field(default_factory=list)
    reports: dict = dataclasses.field(default_factory=dict)

    def add(self, other):
        for field in ("passed", "skipped", "failed", "errors", "warnings", "elsewhere", "again", "seconds"):
            setattr(self, field, getattr(self, field) + getattr(other, field))
        self.problems += [p for p in other.problems if p not in self.problems]
        for text, count in other.reports.items():
            self.reports[text] = self.reports.get(text, 0) + count

    @property
    def good(self):
        return self.errors == 0 and not self.problems and self.passed == self.announced > 0


FIRST_CLUSTER = "--racecheck-filter-cluster-id"


def sanitizer_options(tool, known, all_clusters):
    """`known`: what the program says of its options, which have changed their names."""
    options = ["--tool", tool, "--show-backtrace", "no", "--print-limit", "10000"]
    if tool == "memcheck":  # the program looks at what calls return; some ask what a device can do
        options += ["--report-api-errors", "no"]
    if tool == "racecheck":
        options += ["--racecheck-report", "analysis"]
        for name, value in {"--racecheck-detect-level": "warn", "--racecheck-deadlock-timeout": "30000"}.items():
            if name in known:
                options += [name, value]
        if FIRST_CLUSTER in known and not all_clusters:
            options += [FIRST_CLUSTER, "0"]
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
            found.append([re.sub(r" (of size|at 0x|at host access).*", "", text.strip())[:200], ""])
    return found


def version_of(sanitizer):
    said = subprocess.run([sanitizer, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"Version ((\d+)(\.\d+)*)", said)
    return found[1] if found else "of an unknown version"


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
    wanted, out = ([p for p in text.split(":") if p] for text in (suite.wanted(tool), suite.unwanted(tool)))
    idle = [p for p in wanted + out if not fnmatch.filter(listed, p)]

    def fits(name, among):
        return any(fnmatch.fnmatchcase(name, p) for p in among)
    return [name for name in listed if fits(name, wanted) and not fits(name, out)], idle


def jobs_of(tool, name, suite, cases):
    """Processes that share the cases in turns: large ones are often beside each other."""
    if tool == "racecheck":  # short ones, so that they fill the time
        count = math.ceil(len(cases) / min(max(round(16 / suite.seconds), 1), 6))
    else:
        count = min(suite.processes, len(cases))
    return [Job(tool, name, suite, number, cases[number::count]) for number in range(count)]


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
            outcome.elsewhere = sum(text.startswith("Host API") for text, _ in reports)
            outcome.errors = max(0, outcome.errors - outcome.elsewhere)
    else:
        complaint = re.search(r"^========= (Error.*)", said, re.M)
        outcome.problems.append(f"the tool gave no summary{': ' + complaint[1] if complaint else ''}")
    # It goes on behind one.
    outcome.errors = max(outcome.errors, len(re.findall(r"^=========.*Deadlock detected", said, re.M)))
    if "Internal Sanitizer Error" in said:
        outcome.problems.append("the tool failed by itself")
    for text, where in reports:
        line = f"{text} in {where[:140]}" if where else text
        outcome.reports[line] = outcome.reports.get(line, 0) + 1


class Runner:
    def __init__(self, options, known):
        self.options, self.known = options, known
        self.end = time.monotonic() + options.within
        self.slots = list(range(options.jobs * len(options.gpus)))  # of ports: those of two programs must not meet
        self.lock = threading.Lock()

    def __call__(self, job):
        with self.lock:
            slot = self.slots.pop(0)  # the lowest: those of one round of GPUs before the next
        try:
            again, seconds = 0, 0.0
            while True:
                outcome, ended = self.run(job, slot, again)
                seconds += outcome.seconds
                # What has been reported by then stands.
                known = job.tool == "racecheck" and job.suite.may_hang and not outcome.reports and not outcome.failed
                if ended or not known or again + 1 >= self.options.tries:
                    outcome.again, outcome.seconds = again, seconds
                    return outcome
                again += 1
        finally:
            with self.lock:
                bisect.insort(self.slots, slot)

    def run(self, job, slot, again):
        o, outcome = self.options, Outcome()
        program = o.bin / job.suite.program
        limit = min(o.limit, self.end - time.monotonic())
        if limit < 1:
            outcome.problems.append("no time was left: did not run")
            return outcome, True
        command = [o.sanitizer, *sanitizer_options(job.tool, self.known, o.all_clusters)]
        if "--port" in self.known:
            command += ["--port", str(49152 + 32 * slot)]
        command += [str(program), f"--gtest_filter={':'.join(job.cases)}", "--gtest_color=no"]
        environment = dict(os.environ, WICK_TEST_DEVICE="cuda", WICK_LIBRARIES="off", WICK_ARENA="off",
                           OMP_WAIT_POLICY="passive",
                           OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 1) // side_by_side(o, job.tool in ALONE))))
        if job.tool == "racecheck":
            environment.update(WICK_TEST_ONLY_FUSED="1", WICK_RACECHECK="no-clusters" if job.suite.no_clusters else "on")
            if job.suite.clusters:
                environment["CUDA_LAUNCH_BLOCKING"] = "1"
        if len(o.gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = o.gpus[slot % len(o.gpus)]
        log = o.logs / f"{job.tool}.{job.name}.{job.number}{f'.again{again}' if again else ''}.log"
        start, ended = time.monotonic(), True
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       env=environment, start_new_session=True)
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                outcome.problems.append(f"not done after {limit:.0f} s")
                ended = False
        outcome.seconds = time.monotonic() - start
        judge(job.tool, log.read_text(errors="replace"), outcome)
        if process.returncode != 0 and outcome.good:
            outcome.problems.append(f"exit code {process.returncode}")
        return outcome, ended


def side_by_side(options, alone):
    return len(options.gpus) * (1 if alone else options.jobs)


def all_gpus():
    """As CUDA_VISIBLE_DEVICES names them; at least one."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except OSError:
        said = ""
    return re.findall(r"^GPU (\d+):", said, re.M) or ["0"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help="where the test programs are")
    parser.add_argument("--sanitizer", default="compute-sanitizer")
    parser.add_argument("--since", type=int, metavar="YEAR", help="do nothing, and say so, where there is none as new as that")
    parser.add_argument("--tool", action="append", choices=TOOLS)
    parser.add_argument("--only", action="append", choices=SUITES, metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("--jobs", type=int, default=4, help="processes side by side on a GPU: they share it by turns")
    parser.add_argument("--gpus", type=int, help="use that many (default: all)")
    parser.add_argument("--all-clusters", action="store_true", help="racecheck looks at more than a launch's first cluster")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a process")
    parser.add_argument("--tries", type=int, default=3, help="how often a process is run that is known to hang under racecheck")
    parser.add_argument("--within", type=float, default=880, help="seconds for everything")
    parser.add_argument("--list", action="store_true", help="show each tool's suites and their cases, and run none")
    parser.add_argument("--logs", type=pathlib.Path, help="a folder; a new one by default")
    options = parser.parse_args()
    absent = sorted({s.program for s in SUITES.values() if not (options.bin / s.program).exists()})
    if absent:
        print(f"{options.bin} has no {', '.join(absent)}: nothing was checked", file=sys.stderr)
        return 2
    chosen = [(tool, name) for tool in TOOLS if not options.tool or tool in options.tool
              for name in SUITES if not options.only or name in options.only]
    if options.list:
        for tool, name in chosen:
            cases, _ = cases_of(options.bin / SUITES[name].program, SUITES[name], tool)
            print(f"{tool} {name}: {len(cases)} of {SUITES[name].program}")
            print("".join(f"    {case}\n" for case in cases), end="")
        return 0
    options.logs = options.logs or pathlib.Path(tempfile.mkdtemp(prefix="sanitize-gpu-"))
    options.logs.mkdir(parents=True, exist_ok=True)
    usual = parser.get_default("sanitizer")
    found = shutil.which(options.sanitizer)
    if found is None and options.sanitizer == usual:
        found = shutil.which(f"/usr/local/cuda/bin/{usual}")
    if found is None:
        print(f"{options.sanitizer} is not in PATH (it comes with the CUDA toolkit): nothing was checked", file=sys.stderr)
        return 0 if options.since and options.sanitizer == usual else 2
    options.sanitizer = found
    known = subprocess.run([found, "--help"], capture_output=True, text=True).stdout
    options.gpus = all_gpus()[:options.gpus]

    said = version_of(found)
    if options.since and not said.startswith("of") and int(said.split(".")[0]) < options.since:
        print(f"{found} is {said}, older than {options.since}, and would report what is none: nothing was checked. A newer "
              "one: --help", file=sys.stderr)
        return 0
    totals, left, jobs = {}, {}, []
    for tool, name in chosen:
        suite = SUITES[name]
        if suite.wanted(tool) == "":
            continue
        cases, idle = cases_of(options.bin / suite.program, suite, tool)
        totals[tool, name] = Outcome(announced=len(cases), problems=[f"no case is called {pattern}" for pattern in idle])
        new = jobs_of(tool, name, suite, cases)
        left[tool, name] = len(new)
        jobs += new
    jobs.sort(key=lambda job: (TOOLS.index(job.tool), -job.weight))
    runner = Runner(options, known)
    start = time.monotonic()
    print(f"{found} {said}: {len(jobs)} processes on {len(options.gpus)} GPU(s), {options.jobs} side by side on each, "
          f"alone those of {', '.join(sorted(ALONE))}")
    if any(tool == "racecheck" for tool, _ in totals):
        first = FIRST_CLUSTER in known and not options.all_clusters
        print(f"racecheck looks at {'the first cluster, or block, of each launch' if first else 'all clusters'}")
    print(f"{'tool':9} {'suite':14} {'cases':>9} {'errors':>6} {'seconds':>7}")
    for key in totals:
        if left[key] == 0:
            show(key, totals[key])
    for alone in (True, False):
        with concurrent.futures.ThreadPoolExecutor(side_by_side(options, alone)) as pool:
            running = {pool.submit(runner, job): (job.tool, job.name) for job in jobs if (job.tool in ALONE) == alone}
            for done in concurrent.futures.as_completed(running):
                key = running[done]
                totals[key].add(done.result())
                left[key] -= 1
                if left[key] == 0:
                    show(key, totals[key])
    bad = [key for key, o in totals.items() if not o.good]
    print(f"{len(totals)} suites in {time.monotonic() - start:.0f} s, {len(bad)} not clean; logs in {options.logs}")
    return 1 if bad else 0


def show(key, o):
    """The line of a suite whose processes have all ended."""
    tool, name = key
    counts = {"failed": o.failed, "skipped: did not run": o.skipped, "warnings": o.warnings, "elsewhere": o.elsewhere,
              "stopped, then run again": o.again}
    more = [f"{count} {what}" for what, count in counts.items() if count] + o.problems
    print(f"{tool:9} {name:14} {f'{o.passed}/{o.announced}':>9} {o.errors:6} {o.seconds:7.0f}  {'; '.join(more)}".rstrip())
    for text, count in sorted(o.reports.items(), key=lambda item: -item[1])[:6]:
        print(f"{'':24} {count} x {text}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
