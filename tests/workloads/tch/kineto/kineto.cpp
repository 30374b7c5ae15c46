// Starts and stops libtorch's own profiler (Kineto), on the processors alone.

#include <set>

#include <torch/csrc/autograd/profiler_kineto.h>

using torch::autograd::profiler::disableProfiler;
using torch::autograd::profiler::enableProfiler;
using torch::autograd::profiler::prepareProfiler;
using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

// 0 = it records.
extern "C" int kineto_begin(int shapes) {
    try {
        const ProfilerConfig config(ProfilerState::KINETO, shapes != 0);
        const std::set<ActivityType> activities{ActivityType::CPU};
        prepareProfiler(config, activities);
        enableProfiler(config, activities);
        return 0;
    } catch (...) {
        return -1;
    }
}

// The number of events; -1 = it failed.
extern "C" long kineto_end() {
    try {
        return static_cast<long>(disableProfiler()->events().size());
    } catch (...) {
        return -1;
    }
}
