//! What a driver keeps of a capture: the manifest says it as it was at the stop, and as it is
//! once somebody asks.

mod support;

use profiler_core::backend::DriverState;
use profiler_worker::manifest::{Manifest, SessionState};
use profiler_worker::start_request::StartRequest;

use support::{Behaviour, Bench, join, wait_for};

#[test]
fn a_driver_that_is_detached_later_is_told_by_status_and_manifest() {
    let bench = Bench::new();
    let controller = bench.patient();
    let mut worker = Behaviour::new(0, "thinker", 0, 0);
    worker.driver = Some(DriverState::Residue);
    let _workers = join(&controller, vec![worker]);
    let session = controller.start(&StartRequest::default()).unwrap().session;
    let manifest = controller.stop_profile().unwrap();
    assert_eq!(manifest.workers[0].driver, Some(DriverState::Residue));
    wait_for("the session's end", || {
        controller.manifest(&session).is_ok_and(|manifest| manifest.state == SessionState::Complete)
    });

    // A worker that has no time to answer one question is asked again by a later one.
    wait_for("a status of a detached driver", || {
        controller.status().workers[0].backends[0].driver == Some(DriverState::Detached)
    });
    let manifest = controller.manifest(&session).unwrap();
    assert_eq!(manifest.workers[0].driver, Some(DriverState::Detached));
    // On the disk as well, for whoever comes after this controller.
    let path = std::path::Path::new(&manifest.directory).join("manifest.json");
    wait_for("the manifest on the disk", || {
        let text = std::fs::read(&path).unwrap();
        serde_json::from_slice::<Manifest>(&text)
            .is_ok_and(|manifest| manifest.workers[0].driver == Some(DriverState::Detached))
    });
}
