//! The demo on a stand-in whose device gives no records, though every call succeeds.

use std::process::{Command, Stdio};

use profiler_tests::npu_stand_in::NpuStandIn;
use profiler_tests::programs;
use serde_json::Value;

#[test]
fn a_device_in_use_that_gives_no_record_is_told_for_each_worker_and_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = NpuStandIn::install(folder.path()).unwrap();
    let mut command = Command::new(programs::omniprof().unwrap());
    command.args(["demo", "--json", "--requests", "1", "--backend", "npu", "--dir"]);
    command.arg(folder.path().join("traces"));
    stand_in.enter(&mut command, 5);
    command.env("FAKE_MSPTI_CHANNEL", "off").env("OMNIPROF_MIN_FREE_PERCENT", "0");
    let out = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{said}");
    let outcome: Value = serde_json::from_slice(&out.stdout).expect(&said);
    let workers = outcome["manifest"]["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 5);
    for worker in workers {
        assert_eq!(worker["state"], "degraded", "{worker}");
        assert_eq!(worker["error"]["code"], "no_device_records", "{worker}");
        let text = worker["error"]["message"].as_str().unwrap();
        assert!(text.contains("the device was used") && text.contains("no record"), "{text}");
        assert!(worker["records"]["kernel"].is_null(), "{worker}");
        // What the host did was recorded all the same.
        assert!(worker["records"]["api_call"].as_u64().unwrap() > 100, "{worker}");
    }
}
