//! What a worker is called, for people.

use profiler_core::control::CalledWorker;

/// What is known of a worker's place, in a few words; `None` where nothing is.
pub(crate) fn in_words(called: &CalledWorker) -> Option<String> {
    let mut words = Vec::new();
    match (called.stage, &called.role) {
        (Some(stage), Some(role)) => words.push(format!("stage {stage} {role}")),
        (Some(stage), None) => words.push(format!("stage {stage}")),
        (None, Some(role)) => words.push(role.clone()),
        (None, None) => {}
    }
    words.extend(called.replica.map(|replica| format!("replica {replica}")));
    words.extend(called.rank.map(|rank| format!("rank {rank}")));
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_said() {
        let mut called = CalledWorker::default();
        assert_eq!(in_words(&called), None);
        called.role = Some("thinker".to_owned());
        called.rank = Some(1);
        assert_eq!(in_words(&called).unwrap(), "thinker, rank 1");
        called.stage = Some(0);
        called.replica = Some(2);
        assert_eq!(in_words(&called).unwrap(), "stage 0 thinker, replica 2, rank 1");
        called.role = None;
        assert_eq!(in_words(&called).unwrap(), "stage 0, replica 2, rank 1");
    }
}
