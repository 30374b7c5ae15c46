//! The page for those who come from another profiler: each option of theirs stands in their section,
//! and what it says of requests and of the older call is so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::PathBuf;

use profiler_core::config::{FIELDS, FieldOrigin};
use profiler_worker::start_request::StartRequest;

/// What a product is told by, in its releases of 2025 and 2026.
struct Product {
    section: &'static str,
    options: &'static [&'static str],
}

const PRODUCTS: [Product; 5] = [
    Product {
        section: "vLLM-Omni",
        // What it has of vLLM's stands in vLLM's section.
        options: &[
            "--profiler-config",
            "--stage-overrides",
            "profiler_config",
            "stages",
            "Omni.start_profile",
            "Omni.stop_profile",
            "profile_prefix",
            "trace_path_template",
            "trace_rank0.json.gz",
            "ops_rank0.xlsx",
            "profiler_out_0.txt",
            "stacks_cpu_rank0.txt",
            "stacks_cuda_rank0.txt",
            "memory_snapshot_rank0.pickle",
            "execution_trace_rank0.json",
            "--enable-diffusion-pipeline-profiler",
            "--enable-ar-profiler",
            "--enable-orch-monitor",
            "VLLM_OMNI_ORCH_MONITOR_PATH",
        ],
    },
    Product {
        section: "vLLM",
        options: &[
            "LLM.start_profile",
            "LLM.stop_profile",
            "--profiler-config",
            "profiler: cuda",
            "profiler: proton",
            "torch_profiler_with_flops",
            "torch_profiler_execution_trace",
            "capture_torch_profiler",
            "delay_iterations",
            "max_iterations",
            "wait_iterations",
            "warmup_iterations",
            "active_iterations",
            "ignore_frontend",
            "VLLM_TORCH_PROFILER_DIR",
            "VLLM_TORCH_PROFILER_RECORD_SHAPES",
            "VLLM_TORCH_PROFILER_WITH_PROFILE_MEMORY",
            "VLLM_TORCH_PROFILER_WITH_STACK",
            "VLLM_TORCH_PROFILER_WITH_FLOPS",
            "VLLM_TORCH_PROFILER_USE_GZIP",
            "VLLM_TORCH_PROFILER_DUMP_CUDA_TIME_TOTAL",
            "VLLM_TORCH_PROFILER_DISABLE_ASYNC_LLM",
            "VLLM_TORCH_CUDA_PROFILE",
            "VLLM_PROFILER_DELAY_ITERS",
            "VLLM_PROFILER_MAX_ITERS",
            "VLLM_RPC_TIMEOUT",
        ],
    },
    Product {
        section: "SGLang",
        options: &[
            "output_dir",
            "num_steps",
            "start_step",
            "activities",
            "CPU",
            "GPU",
            "MEM",
            "XPU",
            "CUDA_PROFILER",
            "RPD",
            "with_stack",
            "record_shapes",
            "profile_by_stage",
            "profile_stages",
            "profile_id",
            "profile_prefix",
            "merge_profiles",
            "shape_discovery",
            "run_id",
            "config",
            "trace_path_template",
            "SGLANG_TORCH_PROFILER_DIR",
            "SGLANG_PROFILE_WITH_STACK",
            "SGLANG_PROFILE_RECORD_SHAPES",
            "SGLANG_PROFILE_V2",
            "SGLANG_ENABLE_CUDA_GRAPH_CAPTURE_TRACE",
            "python -m sglang.profiler",
        ],
    },
    Product {
        section: "torch.profiler",
        options: &[
            "activities",
            "schedule",
            "skip_first",
            "skip_first_wait",
            "repeat",
            "on_trace_ready",
            "tensorboard_trace_handler",
            "record_shapes",
            "profile_memory",
            "with_stack",
            "with_flops",
            "with_modules",
            "experimental_config",
            "execution_trace_observer",
            "acc_events",
            "use_cuda",
            "custom_trace_id_callback",
            "post_processing_timeout_s",
            "prof.step",
            "record_function",
            "export_chrome_trace",
            "export_stacks",
            "export_memory_timeline",
            "add_metadata",
            "key_averages",
        ],
    },
    Product {
        section: "torch_npu.profiler",
        options: &[
            "activities",
            "schedule",
            "skip_first_wait",
            "on_trace_ready",
            "tensorboard_trace_handler",
            "analyse_flag",
            "async_mode",
            "record_shapes",
            "profile_memory",
            "with_stack",
            "with_flops",
            "with_modules",
            "experimental_config",
            "custom_trace_id_callback",
            "step()",
            "analyse()",
            "profiler_level",
            "msprof_tx",
            "mstx",
            "mstx_domain_include",
            "mstx_domain_exclude",
            "aic_metrics",
            "l2_cache",
            "op_attr",
            "data_simplification",
            "record_op_args",
            "gc_detect_threshold",
            "export_type",
            "host_sys",
            "sys_io",
            "sys_interconnection",
        ],
    },
];

fn page(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// What stands below a heading, up to the next.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let heading = format!("\n## {title}\n");
    let begin = page.find(&heading).unwrap_or_else(|| panic!("no section {title}"));
    let text = &page[begin + heading.len()..];
    text.find("\n## ").map_or(text, |end| &text[..end])
}

/// The texts between backticks, outside of blocks.
fn code(section: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in section.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

/// Whether a text holds an option, and not one that merely contains its name.
fn names(text: &str, option: &str) -> bool {
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_';
    text.match_indices(option).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + option.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[test]
fn every_option_stands_in_the_section_of_its_product() {
    let page = page("migration.md");
    let mut missing = Vec::new();
    for product in &PRODUCTS {
        let section = section(&page, product.section);
        let code = code(section);
        for option in product.options {
            if !code.iter().any(|text| names(text, option)) {
                missing.push(format!("{}: {option}", product.section));
            }
        }
        let is_shown = |mark: &str| section.contains(&format!("# {mark}"));
        let shows_both = is_shown("before") && is_shown("after")
            || section.contains("```sh before\n") && section.contains("```sh\n");
        assert!(shows_both, "{} is not shown before and after", product.section);
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The page for vLLM points to the table of fields, so that all of them stand there.
#[test]
fn the_fields_of_vllm_stand_in_the_table() {
    let table = page("config.md");
    let of_vllm = FIELDS.iter().filter(|field| field.origin != FieldOrigin::Own);
    let mut count = 0;
    for field in of_vllm {
        count += 1;
        assert!(table.contains(&format!("| `{}` (vLLM) |", field.name)), "{}", field.name);
    }
    assert!(count >= 20, "{count}");
}

/// The rows of requests: what they call taken is taken, what they call refused is refused by name.
#[test]
fn requests_are_taken_or_refused_as_the_page_says() {
    for body in [
        r#"{"stages": [0, 2]}"#,
        r#"{"num_steps": 5, "start_step": 3}"#,
        r#"{"activities": ["CPU", "GPU", "MEM"]}"#,
        r#"{"with_stack": true, "record_shapes": true}"#,
        r#"{"profile_by_stage": true, "profile_stages": ["prefill", "decode"]}"#,
        r#"{"profile_id": "1", "profile_prefix": null, "merge_profiles": true}"#,
        r#"{"profile_prefix": "run-1", "delay_iterations": 2, "max_iterations": 8}"#,
    ] {
        let parsed = StartRequest::parse(body.as_bytes());
        assert!(parsed.is_ok(), "{body}: {parsed:?}");
    }
    for (body, name) in [
        (r#"{"output_dir": "/tmp"}"#, "output_dir"),
        (r#"{"shape_discovery": true}"#, "shape_discovery"),
        (r#"{"trace_path_template": "/data/{stage}.json"}"#, "trace_path_template"),
        (r#"{"run_id": "run_1"}"#, "run_id"),
        (r#"{"config": {}}"#, "config"),
        (r#"{"profile_by_stage": true, "profile_stages": ["decode"]}"#, "profile_stages"),
        (r#"{"activities": ["CUDA_PROFILER"]}"#, "activities"),
        (r#"{"activities": ["RPD"]}"#, "activities"),
        (r#"{"activities": ["CPU", "XPU"]}"#, "activities"),
    ] {
        let refused = StartRequest::parse(body.as_bytes()).unwrap_err();
        assert!(refused.to_string().contains(name), "{body}: {refused}");
    }
}

#[test]
fn the_older_call_says_what_to_write_instead() {
    #[expect(deprecated, reason = "that is what is tested")]
    let refused =
        profiler_worker::controller::start_profile("/data/{stage}_{rank}.json").unwrap_err();
    assert_eq!(refused.template, "/data/{stage}_{rank}.json");
    let text = refused.to_string();
    for part in ["/data/{stage}_{rank}.json", "controller.start_profile(Some(\"label\"), None)"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.contains("stop_profile()") && text.contains("meet in one file"), "{text}");
    // The page shows the call that the message names.
    assert!(page("migration.md").contains("controller.start_profile(Some(\"label\"), None)"));
}
