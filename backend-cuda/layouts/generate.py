#!/usr/bin/env python3
"""Writes layouts.txt: where the fields of CUPTI's records lie, and its numbers, by version.

A test compares the table with the constants of src/cupti/layout.rs. Run this when a new CUDA is
out, after adding it to VERSIONS:

    python3 backend-cuda/layouts/generate.py [--headers DIR] > backend-cuda/layouts/layouts.txt

It downloads NVIDIA's wheels (150 MB) for their headers, which are not copied into this
repository, and compiles a program against each. DIR may hold them already, one folder a version.
Needs pip and a C compiler.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

VERSIONS = [
    "12.1.105", "12.2.142", "12.3.101", "12.4.127", "12.5.82", "12.6.80", "12.8.90", "12.9.79",
    "13.0.85", "13.1.115", "13.2.86", "13.3.75", "13.4.92",
]

# By our name of the record: the vendor's struct without its version, and the fields that are read.
RECORDS = {
    "kernel": (
        "Kernel",
        "registersPerThread start end deviceId contextId streamId gridX staticSharedMemory "
        "dynamicSharedMemory localMemoryPerThread correlationId name sharedMemoryExecuted "
        "graphNodeId graphId clusterX",
    ),
    "memcpy": (
        "Memcpy",
        "copyKind srcKind dstKind flags bytes start end deviceId contextId streamId "
        "correlationId graphNodeId graphId",
    ),
    "peer": (
        "MemcpyPtoP",
        "copyKind srcKind dstKind flags bytes start end deviceId contextId streamId srcDeviceId "
        "dstDeviceId correlationId graphNodeId graphId",
    ),
    "memset": (
        "Memset",
        "value bytes start end deviceId contextId streamId correlationId flags memoryKind "
        "graphNodeId graphId",
    ),
    # The backend asks for none of these; the stand-in writes them, and golden files hold some.
    "api": ("API", "cbid start end threadId correlationId returnValue"),
    "synchronization": (
        "Synchronization",
        "type start end correlationId contextId streamId cudaEventId",
    ),
    "overhead": ("Overhead", "overheadKind objectKind objectId start end"),
    "context": ("Context", "contextId deviceId"),
    "stream": ("Stream", "contextId streamId priority"),
    "device": (
        "Device",
        "globalMemorySize numThreadsPerWarp numMultiprocessors maxWarpsPerMultiprocessor "
        "maxSharedMemoryPerMultiprocessor maxRegistersPerMultiprocessor maxRegistersPerBlock "
        "maxSharedMemoryPerBlock maxThreadsPerBlock computeCapabilityMajor "
        "computeCapabilityMinor id uuid name",
    ),
}

# The same of what callbacks are given, by the vendor's whole name.
CALLBACKS = {
    "callback": ("CUpti_CallbackData", "callbackSite functionReturnValue correlationId"),
}

NUMBERS = (
    [f"CUPTI_ACTIVITY_KIND_{kind}" for kind in (
        "MEMCPY MEMSET DRIVER RUNTIME DEVICE CONTEXT CONCURRENT_KERNEL OVERHEAD MEMCPY2 STREAM "
        "SYNCHRONIZATION"
    ).split()]
    + ["CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_POOL_LIMIT",
       "CUPTI_ACTIVITY_ATTR_ZEROED_OUT_ACTIVITY_BUFFER",
       "CUPTI_ACTIVITY_ATTR_PER_THREAD_ACTIVITY_BUFFER",
       "CUPTI_CB_DOMAIN_DRIVER_API", "CUPTI_CB_DOMAIN_RUNTIME_API",
       "CUPTI_API_ENTER", "CUPTI_API_EXIT",
       "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED", "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES",
       "CUPTI_ERROR_OUT_OF_MEMORY"]
)

# What driver functions of these names are numbered is written as well, whatever their version.
LAUNCHES = re.compile(
    r"CUPTI_DRIVER_TRACE_CBID_(cuLaunch(?:Kernel\w*|CooperativeKernel\w*)"
    r"|cuGraphLaunch\w*|cuMemcpy\w*|cuMemset\w*)\s*=\s*(\d+)"
)
RUNTIME = re.compile(r"CUPTI_RUNTIME_TRACE_CBID_(\w+)\s*=\s*(\d+)")
# The functions that NOISY_RUNTIME_FUNCTIONS names.
NOISY = {
    10, 11, 15, 16, 17, 133, 134, 136, 138, 151, 200, 207, 210, 251, 317, 318, 324, 325, 327, 409,
    410, 461, 462,
}

STUBS = {
    "cuda.h": """
#pragma once
#include <stddef.h>
#include <stdint.h>
typedef int CUdevice, CUresult, CUgraphNodeType, CUstreamAttrID, CUdevice_attribute;
typedef void *CUcontext, *CUstream, *CUmodule, *CUfunction, *CUevent, *CUgraph, *CUgraphNode;
typedef void *CUgraphExec, *CUstreamAttrValue, *CUaccessPolicyWindow, *CUlibrary, *CUkernel, *CUgreenCtx;
typedef struct { char bytes[16]; } CUuuid;
typedef uint64_t CUdeviceptr;
""",
    "builtin_types.h": "#include <cuda.h>\n",
    "Openacc/cupti_openacc.h": "",
    "Openmp/cupti_openmp.h": "",
}


def download(version, folder):
    name = "nvidia-cuda-cupti" + ("-cu12" if version.startswith("12.") else "")
    platforms = ["manylinux1_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64",
                 "manylinux_2_25_x86_64", "manylinux_2_28_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--only-binary=:all:", "--dest", str(folder), f"{name}=={version}"]
    for platform in platforms:
        command += ["--platform", platform]
    subprocess.run(command, check=True, stdout=sys.stderr)
    wheel = next(folder.glob(f"*-{version}-*.whl"))
    headers = folder / version
    headers.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if "/include/" in member and member.endswith(".h"):
                (headers / pathlib.Path(member).name).write_bytes(archive.read(member))
    wheel.unlink()
    return headers


def newest(headers, record):
    """The newest version of a struct: the one that the library writes."""
    text = (headers / "cupti_activity.h").read_text(errors="replace")
    found = re.findall(rf"\}} CUpti_Activity{record}(\d*);", text)
    number = max((int(number or 1) for number in found), default=None)
    if number is None:
        sys.exit(f"{headers}: no CUpti_Activity{record}")
    return f"CUpti_Activity{record}{number if number > 1 else ''}"


def program(headers, version):
    lines = ["#include <stdio.h>", "#include <stddef.h>", "#include <cupti_activity.h>",
             "#include <cupti_callbacks.h>", "#include <cupti_version.h>", "int main(void) {"]
    records = {name: (newest(headers, record), fields)
               for name, (record, fields) in RECORDS.items()}
    for name, (struct, fields) in (records | CALLBACKS).items():
        lines.append(f'printf("{version} {name} {struct} %zu", sizeof({struct}));')
        for field in fields.split():
            lines.append(f'printf(" {field}=%zu", offsetof({struct}, {field}));')
        lines.append('puts("");')
    text = "".join(header.read_text(errors="replace") for header in headers.glob("cupti_*.h"))
    for number in NUMBERS + ["CUPTI_API_VERSION"]:
        if number not in text:
            continue
        lines.append(f'printf("{version} number {number} %d\\n", (int){number});')
    lines.append("return 0; }")
    return "\n".join(lines)


def functions(headers, version):
    for match in LAUNCHES.finditer((headers / "cupti_driver_cbid.h").read_text()):
        yield f"{version} driver {match[1]} {match[2]}"
    for match in RUNTIME.finditer((headers / "cupti_runtime_cbid.h").read_text()):
        if int(match[2]) in NOISY:
            yield f"{version} runtime {match[1]} {match[2]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--headers", type=pathlib.Path)
    given = parser.parse_args().headers
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for path, text in STUBS.items():
            stub = folder / "stubs" / path
            stub.parent.mkdir(parents=True, exist_ok=True)
            stub.write_text(text)
        for version in VERSIONS:
            headers = given / version if given else download(version, folder)
            source, binary = folder / "layout.c", folder / "layout"
            source.write_text(program(headers, version))
            subprocess.run(["cc", "-w", f"-I{headers}", f"-I{folder / 'stubs'}", str(source),
                            "-o", str(binary)], check=True)
            print(subprocess.run([str(binary)], check=True, capture_output=True,
                                 text=True).stdout, end="")
            for line in functions(headers, version):
                print(line)


if __name__ == "__main__":
    main()
