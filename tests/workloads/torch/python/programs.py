"""Programs whose operators are recorded."""

import threading

import torch


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.LayerNorm(64), torch.nn.Linear(64, 8)
    )


def train(net, steps=3):
    """Forward and backward, each step marked."""
    for step in range(steps):
        with torch.profiler.record_function(f"train step {step}"):
            x = torch.randn(16, 32)
            net(x).square().mean().backward()


def infer(net, steps=20):
    with torch.no_grad():
        for _ in range(steps):
            with torch.profiler.record_function("infer step"):
                net(torch.ones(4, 32))


def small(count):
    """So many operators of one name."""
    x = torch.zeros(16)
    with torch.no_grad():
        for _ in range(count):
            x.add_(1.0)


def in_threads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
