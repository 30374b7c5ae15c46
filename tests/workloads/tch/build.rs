//! Builds what starts libtorch's own profiler, and lets the program find libtorch.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kineto/kineto.cpp");
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    // Absent without libtorch, where only checks are built.
    #[cfg(feature = "torch")]
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        let include = std::path::Path::new(&lib).join("../include");
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .warnings(false)
            .include(&include)
            .include(include.join("torch/csrc/api/include"))
            // Without it libtorch's headers assert what they do not when libtorch itself is built.
            .define("NDEBUG", None)
            .define("_GLIBCXX_USE_CXX11_ABI", "1")
            .file("kineto/kineto.cpp")
            .compile("kineto_of_libtorch");
        println!("cargo::rustc-link-search=native={lib}");
        println!("cargo::rustc-link-lib=torch_cpu");
        println!("cargo::rustc-link-lib=c10");
        println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{lib}");
    }
}
