"""bench/report.py: the page and the chart of a sample, and runs of commands that print, fail and do not end. Then what else is
Python in bench/."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "report"
sys.path.insert(0, str(ROOT / "bench"))

from reporting import bars, document, figures, runner  # noqa: E402


def report(*arguments):
    return subprocess.run([sys.executable, ROOT / "bench/report.py", *map(str, arguments)], capture_output=True, text=True)


class Write(unittest.TestCase):
    def test_the_page_and_the_chart_of_a_sample(self):
        with tempfile.TemporaryDirectory() as folder:
            page, chart = pathlib.Path(folder, "page.md"), pathlib.Path(folder, "chart.svg")
            done = report("write", DATA / "results.jsonl", "--bars", DATA / "bars.json", "--commands", DATA / "commands.json",
                          "--out", page, "--svg", chart)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertEqual(page.read_text(), (DATA / "page.md").read_text())
            self.assertEqual(chart.read_text(), (DATA / "chart.svg").read_text())

    def test_nothing_measured_gives_a_page_without_figures(self):
        with tempfile.TemporaryDirectory() as folder:
            results, page = pathlib.Path(folder, "r.jsonl"), pathlib.Path(folder, "page.md")
            results.write_text('{"machine": {}}\n')
            done = report("write", results, "--out", page, "--svg", pathlib.Path(folder, "chart.svg"))
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("Not measured here: ", page.read_text())
            self.assertIn("\nNever run: `ceilings`, `rows`, ", page.read_text())
            self.assertNotIn("|", page.read_text())
            self.assertFalse(pathlib.Path(folder, "chart.svg").exists())

    def written(self, *files, **options):
        """The page of results files, each a list of lines, as text; or what `write` said instead."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [pathlib.Path(folder, f"{i}.jsonl") for i in range(len(files))]
            for path, lines in zip(paths, files):
                path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            page = pathlib.Path(folder, "page.md")
            named = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
            done = report("write", *paths, "--out", page, "--svg", pathlib.Path(folder, "chart.svg"), *named)
            return page.read_text() if done.returncode == 0 else done.stderr

    @staticmethod
    def of(work, case, value, by="wick", **more):
        return {"part": "x", "record": {"by": by, "work": work, "case": case, "value": value, "unit": "us", **more}}

    def test_no_work_is_dropped(self):
        results = figures.Results(DATA / "results.jsonl")
        shown = [id(by) for _, _, works in document.sections(results) for cases in works.values() for by in cases]
        without = [id(by) for by in results.cases.values() if next(iter(by.values())).work in document.WITHOUT_A_TABLE]
        self.assertEqual(sorted(shown + without), sorted(map(id, results.cases.values())))
        page = self.written([{"machine": {}}, self.of("juggling", {"balls": 3}, 7.0), self.of("gelu tanh", {}, 8.0),
                             self.of("swiglu", {"shape": "2 x 2"}, 9.0, by="a peer")])
        self.assertIn("\n## Other\n\nWhat belongs to no section above.\n\n"
                      "| juggling | wick |\n|---|---|\n| balls 3 | 7.00 us |\n", page)
        self.assertIn("\n| gelu tanh | wick |\n", page)
        self.assertIn("\n| swiglu | a peer |\n|---|---|\n| 2 x 2 | 9.00 us |\n", page)

    def test_the_works_of_our_programs_have_a_section(self):
        works = {work for path in (ROOT / "bench/gpu").glob("*.cpp")
                 for work in re.findall(r'(?:print_record|report\.row)\(\s*"([^"]+)"', path.read_text())}
        self.assertLess({"gemm", "gemv", "swiglu", "sampling ", "dx = dlogits W"}, works)
        results = figures.Results(DATA / "results.jsonl")
        results.cases = {work: {"wick": figures.Figure("wick", work, {}, 1, "us", 1, 1)} for work in works}
        self.assertNotIn("Other", [title for title, _, _ in document.sections(results)])

    def test_models_keep_what_is_behind_a_point(self):
        record = {"work": "prefill", "shape": "bench/shapes/llama-3.2-1b.json", "dtype": "bf16", "prompt": 1, "ms": 1,
                  "ms_low": 1, "ms_high": 1}
        self.assertEqual([f.case["model"] for f in figures.figures_of(record)], ["llama-3.2-1b"])
        for path in (ROOT / "bench").rglob("*.cpp"):
            self.assertLess(path.read_text().count(".stem()"), 2, f"{path}: the stem of a stem is llama-3")

    def test_what_is_behind_a_peer_is_told_by_section(self):
        lines = [{"machine": {}}]
        for n, ours, theirs in ((1, 100.0, 99.9), (2, 100.0, 100.0), (3, 100.2, 60.0), (4, 100.0, 100.4)):
            case = {"n": n, "dtype": "bf16"}
            lines += [self.of("gemm", case, ours), self.of("gemm", case, theirs, by="b")]
        lines += [self.of("swiglu", {}, 2.0), self.of("swiglu", {}, 1.0, by="a"), self.of("gelu", {}, 2.0),
                  self.of("gelu", {}, 1.9, by="b")]
        page = self.written(lines)
        self.assertIn("- **Behind a peer** in 4 of 6 comparisons:\n"
                      "  - Products of matrices, 2 of 4 (bf16, beside b): n 3 (0.60x); n 1 (0.999x).\n"
                      "  - Loss and elementwise kernels, 2 of 2: swiglu (0.50x of a); gelu (0.95x of b).\n", page)
        self.assertIn("| bf16, n 2 | 100 us | 100 us | 1.00x |", page)
        self.assertIn("| bf16, n 4 | 100 us | 100 us | 1.004x |", page)

    def test_a_figure_short_of_a_limit_reads_so(self):
        self.assertEqual(document.times(0.99996), "0.99996x")
        self.assertEqual(document.apart(document.percent, 0.8499, 0.85), "84.99 %")
        self.assertEqual(document.apart(document.percent, 0.85, 0.85), "85.0 %")
        self.assertEqual([document.number(v) for v in (99.96, 99.94, 9.996, 1234.5)], ["100", "99.9", "10.0", "1,234"])

    def test_commands_that_failed_or_never_ran_are_named(self):
        with tempfile.TemporaryDirectory() as folder:
            commands = pathlib.Path(folder, "commands.json")
            commands.write_text(json.dumps([{"name": n} for n in ("a.x", "b.ok", "b.bad", "b.left", "c.d", "c.e")]))
            page = self.written([{"machine": {}}, {"ran": "b.ok", "rc": 0, "error": ""},
                                 {"ran": "b.bad", "rc": 1, "error": "why"}], commands=commands)
        self.assertIn("\nFailed (what they measured before counts): `b.bad` (why).\n\nNever run: `a`, `b.left`, `c`.\n", page)

    def test_the_caption_says_what_the_chart_shows(self):
        case = {"model": "qwen2.5-0.5b", "sequences": 4, "length": 2048, "rank": 8}
        lines = [{"machine": {}}, self.of("train", case, 5e4, unit="tokens/s")]
        self.assertIn("![Training speed](", self.written(lines))
        peer = self.of("train", case, 4e4, by="PEFT compiled", unit="tokens/s")
        self.assertIn("![Training speed beside the peers'](", self.written([*lines, peer]))

    def test_files_of_several_gpus_of_one_host_make_one_page(self):
        machine = {"machine": {"gpu": "G, 1 MiB", "driver": "d", "torch": "t", "commit": "c", "date": "2026-01-02"}}
        copy = [self.of("copy", {"bytes": rate}, 1.0, gb_s=rate) for rate in (3000.0, 3200.0, 3100.0)]
        first = [machine, copy[0], self.of("swiglu", {"n": 1}, 2.0), self.of("gemm", {"n": 1}, 1.0, tflops=600.0),
                 {"ran": "rows.wick", "rc": 0, "error": ""}]
        second = [machine, copy[1], copy[2], self.of("gelu", {"n": 1}, 4.0), self.of("gemm", {"n": 2}, 1.0, tflops=700.0),
                  {"ran": "gemm.wick", "rc": 0, "error": ""}]
        page = self.written(first, second)
        self.assertIn("; c. 2 GPUs of one host side by side, each for some of the benchmarks; no row is of two.", page)
        self.assertIn("a copy of memory moved 3,100 GB/s, the fastest bf16 GEMM did 700 TFLOP/s (wick: n 2).", page)
        self.assertIn("| swiglu: n 1 | 2.00 us |", page)
        self.assertIn("| gelu: n 1 | 4.00 us |", page)
        self.assertNotIn("`gemm`", page)
        self.assertIn("1 of 4 rows have figures of more than one GPU.",
                      self.written(first, [*second, self.of("swiglu", {"n": 1}, 3.0, by="peer")]))
        self.assertNotIn("side by side", self.written(first))
        for fact in ("gpu", "driver", "torch", "commit"):
            other = {"machine": machine["machine"] | {fact: "other"}}
            said = self.written(first, [other])
            self.assertRegex(said, rf"1\.jsonl: {fact} other, but .* in .*0\.jsonl")
        with self.assertRaisesRegex(SystemExit, "named twice"):
            figures.Results(DATA / "results.jsonl", DATA / ".." / "report" / "results.jsonl")

    def test_every_bar_can_be_judged(self):
        for bar in json.loads((ROOT / "bench/bars.json").read_text()):
            self.assertIn(bar["of"], ("value", "share", "ratio"))
            self.assertEqual("peer" in bar, bar["of"] == "ratio", bar["title"])
            self.assertTrue("must" in bar or "goal" in bar, bar["title"])
            self.assertTrue(bar["work"] and bar["title"])


class Figures(unittest.TestCase):
    def test_shares_of_the_ceilings(self):
        results = figures.Results(DATA / "results.jsonl")
        self.assertEqual((results.copy, results.gemm), (4000, 800))
        share = {f.work: f.share for f in results.all() if f.by == "wick" and f.case.get("dtype") != "f32"}
        # 16 layers of (2048 x (2048 + 2 x 512 + 2048) + 3 x 2048 x 8192) weights, and a head of 2048 x 128256.
        linear = 16 * (2048 * (2048 + 2 * 512 + 2048) + 3 * 2048 * 8192)
        self.assertAlmostEqual(share["decode"], 2 * (linear + 2048 * 128256) / 0.9e-3 / 4000e9)
        self.assertAlmostEqual(share["prefill"], 2 * linear * 2048 / 7.59e-3 / 800e12)
        self.assertAlmostEqual(share["gemv"], 3000 / 4000)
        self.assertAlmostEqual(share["attention forward"], 200 / 800)
        self.assertAlmostEqual(share["lora linear over base"], 1 / 1.35)
        self.assertEqual([f.share for f in results.all() if f.case.get("dtype") == "f32"], [None, None])

    def test_a_line_of_another_form_is_not_passed_over(self):
        with tempfile.TemporaryDirectory() as folder:
            results = pathlib.Path(folder, "r.jsonl")
            results.write_text('{"machine": {}}\n{"part": "x", "record": {"work": "swiglu", "us": 1}}\n')
            with self.assertRaisesRegex(SystemExit, r"r\.jsonl:2: neither"):
                figures.Results(results)

    def test_runs_of_the_same_are_one_figure(self):
        step = next(f for f in figures.Results(DATA / "results.jsonl").all() if (f.by, f.work) == ("wick", "train"))
        self.assertAlmostEqual(step.value, 8192e3 / 59)
        self.assertAlmostEqual(step.low, 8192e3 / 61)
        self.assertAlmostEqual(step.high, 8192e3 / 57)

    def test_cases_fit_values_lists_and_ranges(self):
        case = {"rows": 64, "dtype": "bf16"}
        self.assertTrue(bars.fits(case, {"rows": {"from": 64, "to": 64}, "dtype": ["f32", "bf16"]}))
        self.assertFalse(bars.fits(case, {"rows": {"from": 65}}))
        self.assertFalse(bars.fits(case, {"dtype": {"from": 1}}))
        self.assertFalse(bars.fits(case, {"columns": 1024}))


class Run(unittest.TestCase):
    def commands(self, folder, counter):
        def python(code):
            return ["{python}", "-c", code]
        record = {"work": "swiglu", "case": {}, "value": 2.0, "unit": "us"}
        return [
            {"name": "good", "command": python(f"print('text'); print({json.dumps(json.dumps(record))})"), "limit": 60},
            {"name": "bad.exit", "command": python("import sys; print('{\"work\": \"cut'); sys.exit('no memory')"), "limit": 60},
            {"name": "bad.path", "command": ["sh", "-c", f"echo no {ROOT}/data >&2; exit 1"], "limit": 60},
            {"name": "bad.absent", "command": ["{bin}/absent"], "limit": 60},
            {"name": "bad.slow", "command": ["sh", "-c", f"echo '{json.dumps(record | {'work': 'x', 'value': 1})}'; sleep 600"], "limit": 5},
            {"name": "counted", "command": python(f"open({str(counter)!r}, 'a').write('x')"), "limit": 60},
        ]

    def test_what_fails_is_noted_and_what_ran_is_not_run_again(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            commands, results, counter = folder / "commands.json", folder / "results.jsonl", folder / "counter"
            commands.write_text(json.dumps(self.commands(folder, counter)))
            call = ["run", "--commands", commands, "--results", results, "--bin", folder]
            for _ in range(2):
                self.assertEqual(report(*call).returncode, 0)
            lines = [json.loads(line) for line in results.read_text().splitlines()]
            self.assertIn("date", lines[0]["machine"])
            ran = {line["ran"]: line for line in lines if "ran" in line}
            self.assertEqual([line.get("ran") for line in lines].count("good"), 1)
            self.assertEqual([line.get("ran") for line in lines].count("bad.exit"), 2)
            self.assertEqual(ran["good"]["rc"], 0)
            self.assertEqual(ran["bad.exit"]["error"], "exit code 1: no memory")
            self.assertEqual(ran["bad.path"]["error"], "exit code 1: no data")
            self.assertEqual(ran["bad.absent"]["rc"], 127)
            self.assertEqual(ran["bad.slow"]["error"], "not done after 5 s")
            self.assertLess(ran["bad.slow"]["seconds"], 300)
            self.assertEqual(counter.read_text(), "x")
            found = figures.Results(results)
            self.assertEqual(sorted(found.failures), ["bad.absent", "bad.exit", "bad.path", "bad.slow"])
            self.assertEqual({f.work: f.value for f in found.all()}, {"swiglu": 2.0, "x": 1})  # printed before the limit

            report(*call, "--only", "counted", "--times", "3")
            self.assertEqual(counter.read_text(), "xxx")
            late = report(*call, "--only", "counted", "--times", "4", "--within", "50")
            self.assertIn("left for another call, with the same results file: counted", late.stderr)
            self.assertEqual(counter.read_text(), "xxx")
            report(*call, "--only", "counted", "--again")
            self.assertEqual(counter.read_text(), "xxxx")
            self.assertEqual(runner.counts(results), {"good": 1, "counted": 1})
            self.assertIn("has no nothing", report(*call, "--only", "nothing").stderr)

    def test_two_machines_do_not_share_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            results = pathlib.Path(folder, "results.jsonl")
            results.write_text(json.dumps({"machine": {"gpu": "one"}}) + "\n")
            with self.assertRaises(SystemExit):
                runner.check_machine(results, {"gpu": "two"})
            runner.check_machine(results, {"gpu": "one"})

    def test_the_commands_of_the_tree_can_be_run(self):
        commands = json.loads((ROOT / "bench/commands.json").read_text())
        self.assertEqual(len({c["name"] for c in commands}), len(commands))
        for c in commands:
            for part in c["command"]:
                if part.startswith("bench/"):
                    self.assertTrue((ROOT / part).exists(), part)


class EachCell(unittest.TestCase):
    """How the peers go through their cells (bench/peers/record.py)."""

    def test_cells_behind_one_that_fails_or_dies_are_measured(self):
        program = """
import os, signal
from record import each_cell
def measure(name, how):
    if how == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    print(name, 1 / (how == "works"), flush=True)
each_cell([("a", "works"), ("b", "fails"), ("c", "works"), ("d", "dies"), ("e", "works")], measure)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT / "bench/peers")
        self.assertEqual(done.stdout, "a 1.0\nc 1.0\ne 1.0\n")
        self.assertIn("ZeroDivisionError", done.stderr)
        self.assertEqual(done.stderr.splitlines()[-1], "failed: b fails; d dies")
        self.assertEqual(done.returncode, 1)


class EmbeddingTexts(unittest.TestCase):
    """bench/embedding_texts.py."""

    def texts(self, vocabulary, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
            done = subprocess.run([sys.executable, ROOT / "bench/embedding_texts.py", folder, *arguments],
                                  capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return [json.loads(line)["text"].split() for line in done.stdout.splitlines()]

    def test_words_are_tokens_of_the_vocabulary(self):
        entries = ["[CLS]", "##ing", "a", "red", "\u0120fox", "\u00e9t\u00e9", "12", "sea"]
        for vocabulary in ({entry: i for i, entry in enumerate(entries)}, [[entry, -1.5] for entry in entries]):
            texts = self.texts(vocabulary, "200", "--words", "2", "4")
            self.assertEqual({len(text) for text in texts}, {2, 3, 4})
            self.assertEqual({word for text in texts for word in text}, {"red", "sea"})
            self.assertEqual((len(texts), texts), (200, self.texts(vocabulary, "200", "--words", "2", "4")))


if __name__ == "__main__":
    unittest.main()
