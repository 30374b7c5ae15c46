"""Answers requests as long as its parent lives, each in a range of its own: knows nothing of any profiler."""

import os

import torch


def answer(net, x):
    return net(x).sum()


def main():
    torch.set_num_threads(1)
    net = torch.nn.Sequential(torch.nn.Linear(512, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 64))
    x = torch.ones(128, 512)
    number = 0
    parent = os.getppid()
    with torch.no_grad():
        # Whoever started it may have been killed.
        while os.getppid() == parent:
            with torch.profiler.record_function(f"request {number}"):
                answer(net, x)
            number += 1


if __name__ == "__main__":
    main()
