"""bench/report.py: the page and the chart of a sample, and runs of commands that print, fail and do not end. Then what else is
Python in bench/."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "report"
sys.path.insert(0, str(ROOT / "bench"))

from reporting import bars, figures, runner  # noqa: E402


def report(*arguments):
    return subprocess.run([sys.executable, ROOT / "bench/report.py", *map(str, arguments)], capture_output=True, text=True)


class Write(unittest.TestCase):
    def test_the_page_and_the_chart_of_a_sample(self):
        with tempfile.TemporaryDirectory() as folder:
            page, chart = pathlib.Path(folder, "page.md"), pathlib.Path(folder, "chart.svg")
            done = report("write", DATA / "results.jsonl", "--bars", DATA / "bars.json", "--out", page, "--svg", chart)
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
            self.assertNotIn("|", page.read_text())
            self.assertFalse(pathlib.Path(folder, "chart.svg").exists())

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
        self.assertEqual([f.share for f in results.all() if f.case.get("dtype") == "f32"], [None])

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
            self.assertEqual(ran["bad.absent"]["rc"], 127)
            self.assertEqual(ran["bad.slow"]["error"], "not done after 5 s")
            self.assertLess(ran["bad.slow"]["seconds"], 300)
            self.assertEqual(counter.read_text(), "x")
            found = figures.Results(results)
            self.assertEqual(sorted(found.failures), ["bad.absent", "bad.exit", "bad.slow"])
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
