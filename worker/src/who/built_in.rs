//! The rules that come with the program.

use std::sync::LazyLock;

use super::MapRule;

/// What `omniprof run` itself tells its children.
pub(super) static LAUNCHER: LazyLock<Vec<MapRule>> = LazyLock::new(|| {
    rules(&[
        r"env:^OMNIPROF_STAGE=(?<stage>[0-9]+)$",
        r"env:^OMNIPROF_ROLE=(?<role>.+)$",
        r"env:^OMNIPROF_REPLICA=(?<replica>[0-9]+)$",
        r"env:^OMNIPROF_RANK=(?<rank>[0-9]+)$",
    ])
});

/// What servers show: titles first, which say most, then the variables of launchers.
pub(super) static SERVERS: LazyLock<Vec<MapRule>> = LazyLock::new(|| {
    rules(&[
        // vLLM-Omni: one such process a replica of a stage; its workers bear vLLM's titles.
        r"title:^VLLM::(?<role>StageEngineCoreProc)_stage(?<stage>[0-9]+)_replica(?<replica>[0-9]+)",
        r"title:^VLLM::(?<role>StageEngineCoreProc)",
        // vLLM: parts of sizes above 1 only; a data-parallel rank is a replica.
        r"title:^VLLM::(?<role>EngineCore)(?:_DP(?<replica>[0-9]+))?$",
        r"title:^VLLM::(?<role>Worker)(?:_DP(?<replica>[0-9]+))?(?:_PP(?<pp>[0-9]+))?(?:_PCP[0-9]+)?(?:_TP(?<tp>[0-9]+))?(?:_DCP[0-9]+)?(?:_EP[0-9]+)?$",
        r"title:^VLLM::(?<role>[A-Za-z]+)",
        // SGLang; older releases have the pipeline rank behind the tensor rank.
        r"title:^sglang::(?<role>scheduler)(?:_DP(?<replica>[0-9]+))?(?:_PP(?<pp>[0-9]+))?(?:_(?:ATTN_CP|MOE_DP)[0-9]+)*(?:_TP(?<tp>[0-9]+))?(?:_EP[0-9]+)?$",
        r"title:^sglang::(?<role>scheduler)(?:_DP(?<replica>[0-9]+))?_TP(?<tp>[0-9]+)_PP(?<pp>[0-9]+)$",
        r"title:^sglang::(?<role>[a-z]+(?:_[a-z]+)*)",
        // The servers' first processes, which keep their command lines.
        r"cmdline:(?:^|[ /])(?<role>vllm|vllm-omni) serve(?: |$)",
        r"cmdline: -m (?<role>sglang)\.launch_server(?: |$)",
        r"env:^VLLM_OMNI_REPLICA_ID=(?<replica>[0-9]+)$",
        // torchrun and what speaks its language.
        r"env:^RANK=(?<rank>[0-9]+)$",
        r"env:^LOCAL_RANK=(?<rank>[0-9]+)$",
    ])
});

fn rules(texts: &[&str]) -> Vec<MapRule> {
    // A test reads them all.
    texts.iter().filter_map(|text| MapRule::parse(text).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_rule_is_one() {
        assert_eq!((LAUNCHER.len(), SERVERS.len()), (4, 13));
    }
}
