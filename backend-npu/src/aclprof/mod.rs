//! Recording through AscendCL's profiling interface: raw files, which `msprof` makes a trace of.

pub(crate) mod capture;
pub(crate) mod library;

use std::path::Path;

use crate::mspti::locate::Homes;
use crate::trial::Failure;

/// Where it is, for a machine that is recorded through it; nothing is loaded.
pub(crate) fn note(root: &Path) -> Result<String, Failure> {
    let homes = Homes::of_this_process(None);
    let mut places = library::NAMES.iter().flat_map(|name| homes.libraries(name, root));
    match places.find(|place| place.is_file()) {
        Some(place) => Ok(format!(
            "recorded through aclprof ({}): raw files beside the spool, which `msprof` makes a \
             trace of after the stop",
            place.display()
        )),
        None => Err(Failure {
            code: "library_missing".to_owned(),
            message: "it is recorded through aclprof, and neither libmsprofiler.so nor \
                      libascendcl.so was found"
                .to_owned(),
            remedy: "install the CANN toolkit and source its set_env.sh before the worker starts"
                .to_owned(),
        }),
    }
}
