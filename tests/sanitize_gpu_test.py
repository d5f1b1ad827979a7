"""sanitize_gpu.py with a tool and test programs that are scripts. Given the folder of the real ones, also that each pattern of
its suites is the name of a case."""
import contextlib
import io
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

import sanitize_gpu

# Passes its program's output and exit code on, as the real one does.
TOOL = """#!/bin/bash
[ "$1" = --help ] && { echo "--kernel-name --port --racecheck-deadlock-timeout"; exit; }
[ "$1" = --version ] && { echo "NVIDIA (R) Compute Sanitizer"; echo "Version ${VERSION:-2026.4.0.0} (build 1)"; exit; }
while [[ $1 == --* ]]; do [ "$1" = --tool ] && tool=$2; shift 2; done
echo "========= COMPUTE-SANITIZER"
"$@"
rc=$?
case $tool in
  racecheck) echo "========= RACECHECK SUMMARY: ${RACES:-0 hazards displayed (0 errors, 0 warnings)}" ;;
  *) echo "========= ERROR SUMMARY: ${ERRORS:-0} errors" ;;
esac
exit $rc
"""
# Runs, or skips, those of the cases Kernels.Small and Kernels.Large that its filter names.
PROGRAM = """#!/bin/bash
[ "$1" = --gtest_list_tests ] && { printf 'Kernels.\\n  Small\\n  Large  # GetParam() = 4\\n'; exit; }
[ "$WICK_TEST_DEVICE$WICK_LIBRARIES$WICK_ARENA" = cudaoffoff ] || exit 3
names=$(tr : '\\n' <<<"${1#--gtest_filter=}")
echo "[==========] Running $(wc -l <<<"$names") tests from 1 test suite."
for name in $names; do
  echo "[ RUN      ] $name"
  printf "$SAYS"
  sleep ${SLEEPS:-0}
  echo "[${RESULT:-       OK }] $name (3 ms)"
done
echo "[  PASSED  ] 2 tests."
"""
SUITES = {"kernels": sanitize_gpu.Suite("kernels_test", "*Small:*Large")}


class SanitizeGpu(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name, text in {"tool": TOOL, "kernels_test": PROGRAM}.items():
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)

    def run_it(self, *arguments, suites=None, **environment):
        """(exit code, what it prints)"""
        said = io.StringIO()
        argv = ["sanitize_gpu.py", "--sanitizer", str(self.folder / "tool"), "--bin", str(self.folder), "--logs",
                str(self.folder / "logs"), *arguments]
        with mock.patch.object(sys, "argv", argv), mock.patch.dict(sanitize_gpu.SUITES, suites or SUITES, clear=True), \
                mock.patch.dict("os.environ", environment), contextlib.redirect_stdout(said), \
                contextlib.redirect_stderr(said):
            return sanitize_gpu.main(), said.getvalue()

    def test_clean_cases_are_counted(self):
        code, said = self.run_it()
        self.assertEqual(code, 0, said)
        for tool in sanitize_gpu.TOOLS:
            self.assertRegex(said, rf"{tool} +kernels +2/2 +0 ")

    def test_a_skipped_case_did_not_run(self):
        code, said = self.run_it("--tool", "memcheck", RESULT="  SKIPPED ")
        self.assertEqual(code, 1)
        self.assertRegex(said, r"0/2 .* 2 skipped: did not run")

    def test_a_failed_case_counts(self):
        code, said = self.run_it("--tool", "memcheck", RESULT="  FAILED  ")
        self.assertEqual(code, 1)
        self.assertIn("2 failed", said)

    def test_what_does_not_end_did_not_run(self):
        code, said = self.run_it("--tool", "memcheck", "--limit", "1", SLEEPS="30")
        self.assertEqual(code, 1)
        self.assertIn("0/2", said)
        self.assertIn("not done after 1 s", said)

    def test_racecheck_may_be_stopped_and_run_again(self):
        slow_at_first = '$([ -e "$MARK" ] || { touch "$MARK"; echo 30; })'
        (self.folder / "kernels_test").write_text(PROGRAM.replace("${SLEEPS:-0}", slow_at_first + " 0"))
        for tool, tries, code in (("racecheck", "2", 0), ("racecheck", "1", 1), ("memcheck", "2", 1)):
            mark = self.folder / f"mark.{tool}.{tries}"
            suites = {"kernels": sanitize_gpu.Suite("kernels_test", "*Small:*Large", may_hang=True)}
            found, said = self.run_it("--tool", tool, "--limit", "2", "--tries", tries, suites=suites, MARK=str(mark))
            self.assertEqual(found, code, said)
            if code == 0:
                self.assertRegex(said, r"2/2 +0 .*1 stopped, then run again")
            else:
                self.assertIn("not done after 2 s", said)

    def test_what_was_reported_before_a_stop_stands(self):
        mark = self.folder / "mark"
        says = "========= Deadlock detected in Cuda::barrier wait\n"
        slow_at_first = '$([ -e "$MARK" ] || { touch "$MARK"; echo 30; })'
        (self.folder / "kernels_test").write_text(PROGRAM.replace("${SLEEPS:-0}", slow_at_first + " 0"))
        suites = {"kernels": sanitize_gpu.Suite("kernels_test", "*Small:*Large", may_hang=True)}
        code, said = self.run_it("--tool", "racecheck", "--limit", "2", suites=suites, MARK=str(mark), SAYS=says)
        self.assertEqual(code, 1, said)
        self.assertNotIn("run again", said)

    def test_errors_of_memcheck(self):
        code, said = self.run_it(
            "--tool", "memcheck", ERRORS="2",
            SAYS="========= Invalid __global__ read of size 4 bytes\n=========     at void wick::cuda::k<float>(int)+0x1a0\n")
        self.assertEqual(code, 1)
        self.assertRegex(said, r"2/2 +2 ")
        self.assertIn("2 x Invalid __global__ read in void wick::cuda::k<float>(int)", said)

    def test_races_are_errors_and_warnings_are_told(self):
        says = "========= Warning: Race reported between Write access at wick::cuda::k(int)+0x70\n=========     and Read access"
        code, said = self.run_it("--tool", "racecheck", RACES="3 hazards displayed (1 error, 2 warnings)", SAYS=says + "\n")
        self.assertEqual(code, 1)
        self.assertRegex(said, r"2/2 +1 .* 2 warnings")
        code, said = self.run_it("--tool", "racecheck", RACES="2 hazards displayed (0 errors, 2 warnings)")
        self.assertEqual(code, 0)

    def test_initcheck_tells_kernels_from_copies(self):
        code, said = self.run_it("--tool", "initcheck", ERRORS="2", SAYS="""\
========= Host API memory access error at host access to 0x7f00 of size 64 bytes
=========     Uninitialized access at 0x7f10 on access by cudaMemcpy source
""")
        self.assertEqual(code, 0, said)
        self.assertIn("2 elsewhere", said)
        says = "========= Uninitialized __global__ memory read of size 4 bytes\n=========     at wick::cuda::kernel(int)+0x10\n"
        code, said = self.run_it("--tool", "initcheck", ERRORS="2", SAYS=says)
        self.assertEqual(code, 1)
        self.assertRegex(said, r"2/2 +2 ")

    def test_a_tool_that_cannot_work_is_no_success(self):
        (self.folder / "tool").write_text("#!/bin/bash\necho '========= Error: Device not supported.'\nexit 1\n")
        code, said = self.run_it("--tool", "memcheck")
        self.assertEqual(code, 1)
        self.assertIn("no summary: Error: Device not supported", said)

    def test_an_error_of_the_tools_own_is_no_success(self):
        says = "========= Internal Sanitizer Error: The Sanitizer failed to handle a hardware exception.\n"
        for tool in sanitize_gpu.TOOLS:
            code, said = self.run_it("--tool", tool, SAYS=says)
            self.assertEqual(code, 1)
            self.assertIn("the tool failed by itself", said)

    def test_a_tool_may_be_too_old(self):
        code, said = self.run_it("--since", "2026", VERSION="2025.3.1")
        self.assertEqual(code, 0)
        self.assertIn("2025.3.1, older than 2026", said)
        self.assertNotIn("kernels", said)
        code, said = self.run_it("--since", "2026", "--sanitizer", str(self.folder / "none"))
        self.assertEqual(code, 2, said)
        code, said = self.run_it("--since", "2026", RESULT="  FAILED  ")
        self.assertEqual(code, 1)
        self.assertIn("failed", said)

    def test_a_pattern_without_cases_is_told(self):
        code, said = self.run_it("--tool", "memcheck",
                                 suites={"kernels": sanitize_gpu.Suite("kernels_test", "*Small:*Large:*Gone")})
        self.assertEqual(code, 1)
        self.assertIn("no case is called *Gone", said)

    def test_cases_can_be_listed(self):
        suites = {"kernels": sanitize_gpu.Suite("kernels_test", "*Small:*Large", racecheck="")}
        code, said = self.run_it("--list", "--sanitizer", "/nowhere/tool", suites=suites)
        self.assertEqual(code, 0)
        self.assertIn("racecheck kernels: 0 of kernels_test\nmemcheck kernels: 2 of kernels_test\n    Kernels.Small\n", said)

    def test_a_tool_may_have_other_cases(self):
        suite = sanitize_gpu.Suite("kernels_test", "*Small:*Large", 2, "*Lar?e", initcheck_without="*Large")
        code, said = self.run_it(suites={"kernels": suite}, VERSION="2025.3.1")
        self.assertEqual(code, 0, said)
        self.assertIn("2025.3.1: ", said)
        self.assertRegex(said, r"racecheck +kernels +1/1 ")
        self.assertRegex(said, r"memcheck +kernels +2/2 ")
        self.assertRegex(said, r"initcheck +kernels +1/1 ")

    def test_all_gpus_are_used(self):
        suites = {"kernels": sanitize_gpu.Suite("kernels_test", "*Small:*Large", 2, seconds=16)}
        says = "on $CUDA_VISIBLE_DEVICES, fused $WICK_TEST_ONLY_FUSED\\n"
        both_run = 'touch "$MEET/$$"; until [ $(ls "$MEET" | wc -l) = 2 ]; do sleep 0.02; done'
        (self.folder / "kernels_test").write_text(PROGRAM.replace("$SAYS", says).replace("sleep ${SLEEPS:-0}", both_run))
        for tool, fused in {"racecheck": "1", "memcheck": ""}.items():
            logs = self.folder / tool
            meet = self.folder / f"{tool}.meet"
            meet.mkdir()
            code, said = self.run_it("--tool", tool, "--jobs", "1", "--logs", str(logs), suites=suites,
                                     CUDA_VISIBLE_DEVICES="5,7,9", MEET=str(meet))
            self.assertEqual(code, 0, said)
            self.assertIn("2 processes on 3 GPU(s)", said)
            ran_on = sorted(line for log in logs.iterdir() for line in log.read_text().splitlines() if line.startswith("on "))
            self.assertEqual(ran_on, [f"on 5, fused {fused}", f"on 7, fused {fused}"])
        (self.folder / "kernels_test").write_text(PROGRAM)
        code, said = self.run_it("--tool", "memcheck", "--gpus", "1", suites=suites, CUDA_VISIBLE_DEVICES="5,7,9")
        self.assertIn("on 1 GPU(s)", said)

    def test_processes_share_the_cases(self):
        suite = sanitize_gpu.Suite("kernels_test", "*", 3, seconds=8)
        for tool in ("memcheck", "racecheck"):
            jobs = sanitize_gpu.jobs_of(tool, "kernels", suite, list("abcde"))
            self.assertEqual([job.cases for job in jobs], [["a", "d"], ["b", "e"], ["c"]])

    def test_racecheck_has_what_it_can_follow(self):
        says = "racecheck $WICK_RACECHECK, blocking $CUDA_LAUNCH_BLOCKING\\n"
        (self.folder / "kernels_test").write_text(PROGRAM.replace("$SAYS", says))
        for tool, has, wanted in (("racecheck", {}, "on, blocking "), ("racecheck", {"clusters": True}, "on, blocking 1"),
                                  ("racecheck", {"no_clusters": True}, "no-clusters, blocking "),
                                  ("memcheck", {"clusters": True}, ", blocking ")):
            logs = self.folder / "_".join([tool, *has])
            suite = sanitize_gpu.Suite("kernels_test", "*Small", **has)
            code, said = self.run_it("--tool", tool, "--logs", str(logs), suites={"kernels": suite})
            self.assertEqual(code, 0, said)
            self.assertIn(f"racecheck {wanted}\n", "".join(log.read_text() for log in logs.iterdir()))

    def test_a_deadlock_is_an_error(self):
        code, said = self.run_it("--tool", "racecheck", SAYS="========= Error: Deadlock detected in wick::cuda::k\\n")
        self.assertEqual(code, 1)
        self.assertRegex(said, r"2/2 +2 ")
        self.assertIn("2 x Error: Deadlock detected", said)

    def test_nothing_runs_without_the_tool_or_the_programs(self):
        for arguments in (["--sanitizer", "/nowhere/tool"], ["--bin", "/nowhere"]):
            with mock.patch("shutil.which", lambda name: None if name.startswith("/") and "nowhere" in name else name
                            if "tool" in name else None):
                code, said = self.run_it(*arguments)
            self.assertEqual(code, 2)
            self.assertIn("nothing was checked", said)

    def test_patterns_are_names_of_cases(self):
        if PROGRAMS is None:
            self.skipTest("no folder of test programs was given")
        for name, suite in sanitize_gpu.SUITES.items():
            if not (PROGRAMS / suite.program).exists():  # built without CUDA
                continue
            for tool in sanitize_gpu.TOOLS:
                cases, idle = sanitize_gpu.cases_of(PROGRAMS / suite.program, suite, tool)
                self.assertEqual(idle, [], f"{name} {tool}")
                self.assertEqual(cases == [], suite.wanted(tool) == "", f"{name} {tool}")


PROGRAMS = None
if __name__ == "__main__":
    if len(sys.argv) > 1:
        PROGRAMS = pathlib.Path(sys.argv.pop())
    unittest.main()
