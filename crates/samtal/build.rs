//! How the program is linked.

use std::{fs, path::Path, process::Command};

/// The first C library that reads packed relocations.
const GLIBC_MIN: (u32, u32) = (2, 36);

/// The functions that run when nobody asks anything; `tests/start-order` writes it.
const ORDER: &str = "start.order";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={ORDER}");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let native =
        var("HOST") == var("TARGET") && var("CARGO_CFG_TARGET_OS") == "linux" && var("CARGO_CFG_TARGET_ENV") == "gnu";
    if native && glibc() >= Some(GLIBC_MIN) {
        // The list of addresses to be set right at the start is read once, and is a megabyte of memory: packed, it is a fiftieth.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    // A linker that was chosen by flags may not read such scripts.
    let chosen = ["linker", "fuse-ld"].iter().any(|flag| var("CARGO_ENCODED_RUSTFLAGS").contains(flag));
    if native && var("CARGO_CFG_TARGET_ARCH") == "x86_64" && var("PROFILE") == "release" && !chosen {
        let script = Path::new(&var("OUT_DIR")).join("start.ld");
        // Without it the program is the same, but for its memory.
        if fs::read_to_string(ORDER).and_then(|names| fs::write(&script, in_order(&names))).is_ok() {
            println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
        }
    }
}

/// A linker script that puts the functions with these names before all others. The kernel maps a program's code in pieces of 64
/// KiB: where what runs at the start and ever after stands together, an idle server has half of it in memory.
fn in_order(names: &str) -> String {
    // What is no letter would mean something in a pattern.
    let pattern = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.', "?");
    let section = |name: &str| {
        // A hash that differs from build to build follows.
        let rest = if name.ends_with("17h") { "*" } else { "" };
        format!("    *(.text.{}{rest})\n", pattern(name))
    };
    let sections: String = names.lines().map(section).collect();
    format!("SECTIONS\n{{\n  .text.start :\n  {{\n{sections}  }}\n}}\nINSERT BEFORE .text;\n")
}

/// The version of this machine's C library, if it is GNU's.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
