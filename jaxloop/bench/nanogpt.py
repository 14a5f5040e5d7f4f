"""nanoGPT beside jaxloop: its own model, unmodified, from a checkout, on the same data in the same run.

`Peer` starts this file as a program of its own, with PyTorch, and speaks with it in lines of JSON: what waits for its
turn then computes nothing. Training is what nanoGPT's train.py does: batches of random windows of one stream of tokens,
AdamW from the model's own `configure_optimizers`, a clip of the norm, linear warm-up and a cosine.
"""

import contextlib
import importlib.util
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from jaxloop.errors import InputError, RunError
from jaxloop.systems.logic.settings import LogicConfig
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY


class Peer:
    """nanoGPT in a process of its own."""

    def __init__(self, path: Path, config: LogicConfig, threads: int):
        if not (path / "model.py").is_file():
            raise InputError(f"--nanogpt {path}: no model.py there; give a checkout of nanoGPT")
        if importlib.util.find_spec("torch") is None:
            raise InputError("--against nanogpt needs PyTorch; install it with pip install 'jaxloop-collapse[peer]'")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jaxloop.bench.nanogpt", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._context = config.model.context_tokens
        tokens = config.model.model_dump() | config.train.model_dump()
        try:
            self._ask("settings", **tokens, threads=threads)
        except RunError:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.communicate()

    def _ask(self, what: str, **arguments):
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout, "both are pipes"
        try:
            stdin.write(json.dumps({"what": what, **arguments}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise RunError(f"nanoGPT's process ended while it was asked to {what}")
        answer = json.loads(line)
        if "error" in answer:
            raise RunError(f"nanoGPT failed when it was asked to {what}: {answer['error']}")
        return answer

    def begin(self, seed: int, training_NxT: np.ndarray, batch_rows: int) -> None:
        """A fresh model, and the rows it is trained on."""
        stream = [EOS]
        for row_T, length in zip(training_NxT, VOCABULARY.lengths(training_NxT), strict=True):
            stream += [*row_T[:length].tolist(), EOS]
        self._ask("begin", seed=seed, stream=stream, batch_rows=batch_rows)

    def train(self, steps: int) -> float:
        """Seconds that so many more steps take."""
        return self._ask("train", steps=steps)["seconds"]

    def generate(self, sequences: int, temperature: float) -> float:
        """Seconds that it takes to write so many sequences up to the context."""
        return self._ask("generate", sequences=sequences, temperature=temperature)["seconds"]

    def held_out_nats(self, held_out_HxT: np.ndarray) -> float:
        """Nats per expression, `<eos>` included."""
        return self._ask("evaluate", rows=held_out_HxT.tolist())["nats"]


class _Server:
    """The other side: runs in a process with PyTorch."""

    def __init__(self, path: str):
        import torch  # pyright: ignore[reportMissingImports]

        self.torch = torch
        specification = importlib.util.spec_from_file_location("nanogpt_model", Path(path) / "model.py")
        assert specification and specification.loader, "the file is there"
        self.module = importlib.util.module_from_spec(specification)
        sys.modules["nanogpt_model"] = self.module
        specification.loader.exec_module(self.module)

    def settings(self, threads: int, **settings) -> dict:
        self.torch.set_num_threads(threads)
        self.given = settings
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        return {}

    def begin(self, seed: int, stream: list[int], batch_rows: int) -> dict:
        torch, given = self.torch, self.given
        torch.manual_seed(seed)
        self.stream, self.batch_rows, self.steps_taken = torch.tensor(stream), batch_rows, 0
        sizes = self.module.GPTConfig(
            block_size=given["context_tokens"],
            vocab_size=VOCABULARY.size,
            n_layer=given["layers"],
            n_head=given["heads"],
            n_embd=given["width"],
            dropout=given["dropout"],
            bias=False,
        )
        self.model = self.module.GPT(sizes).to(self.device)
        self.optimiser = self.model.configure_optimizers(
            given["weight_decay"], given["learning_rate"], (given["beta1"], given["beta2"]), self.device
        )
        self.stepped = torch.compile(self.model) if self.device == "cuda" else self.model
        return {}

    def _learning_rate(self, step: int) -> float:
        given = self.given
        if step < given["warmup_steps"]:
            return given["learning_rate"] * (step + 1) / given["warmup_steps"]
        progress = (step - given["warmup_steps"]) / max(given["steps"] - given["warmup_steps"], 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
        final = given["final_learning_rate_share"]
        return given["learning_rate"] * (final + (1 - final) * cosine)

    def _half_precision(self):
        if self.device == "cpu":
            return contextlib.nullcontext()
        return self.torch.amp.autocast(device_type="cuda", dtype=self.torch.bfloat16)

    def train(self, steps: int) -> dict:
        torch, width = self.torch, self.given["context_tokens"]
        self.model.train()
        loss = torch.zeros(())
        begun = time.perf_counter()
        for _ in range(steps):
            for group in self.optimiser.param_groups:
                group["lr"] = self._learning_rate(self.steps_taken)
            start_B = torch.randint(len(self.stream) - width, (self.batch_rows,))
            inputs = torch.stack([self.stream[start : start + width] for start in start_B]).to(self.device)
            targets = torch.stack([self.stream[start + 1 : start + 1 + width] for start in start_B]).to(self.device)
            with self._half_precision():
                _, loss = self.stepped(inputs, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.given["clip_norm"])
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self.steps_taken += 1
        float(loss.detach())
        return {"seconds": time.perf_counter() - begun}

    def generate(self, sequences: int, temperature: float, at_once: int = 250) -> dict:
        torch, width = self.torch, self.given["context_tokens"]
        self.model.eval()
        begun = time.perf_counter()
        with torch.no_grad(), self._half_precision():
            for first in range(0, sequences, at_once):
                start = torch.full((min(at_once, sequences - first), 1), EOS, device=self.device)
                self.model.generate(start, width - 1, temperature=temperature).cpu()
        return {"seconds": time.perf_counter() - begun}

    def evaluate(self, rows: list[list[int]]) -> dict:
        torch = self.torch
        self.model.eval()
        targets_HxT = np.array(rows)
        inputs_HxT = np.pad(targets_HxT[:, :-1], ((0, 0), (1, 0)), constant_values=EOS)
        past = np.arange(targets_HxT.shape[1]) > VOCABULARY.lengths(targets_HxT.astype(np.uint8))[:, None]
        targets_HxT = np.where(past, -1, targets_HxT)  # nanoGPT's number for no target
        nats = 0.0
        with torch.no_grad():
            for first in range(0, len(rows), 100):
                targets = torch.tensor(targets_HxT[first : first + 100], device=self.device)
                inputs = torch.tensor(inputs_HxT[first : first + 100], device=self.device)
                nats += float(self.model(inputs, targets)[1]) * int((targets != -1).sum())
        return {"nats": nats / len(rows)}


def main() -> None:
    """Answer questions on standard input until it ends; nanoGPT's own words go to standard error."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    server = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            server = server or _Server(sys.argv[1])
            with contextlib.redirect_stdout(None) if question["what"] == "begin" else contextlib.nullcontext():
                answer = getattr(server, question.pop("what"))(**question)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
