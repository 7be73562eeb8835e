//! Real data, which lies beside the project and is not part of it.

use std::io::Write;
use std::path::{Path, PathBuf};

use dealrank::ingest::{Purpose, ReadOptions};

use crate::world::now;

/// A file of the shared data, or `None`, loudly, where that folder is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    shared_in("data", path)
}

/// A file of one of the shared folders.
pub fn shared_in(folder: &str, path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("DEALRANK_SHARED").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let file = root.join(folder).join(path);
    if !file.exists() {
        let file = file.display();
        let notice = format!("SKIPPED: {file} is absent; set DEALRANK_SHARED\n");
        // Not eprintln!, which the test harness swallows when a test passes.
        std::io::stderr().write_all(notice.as_bytes()).unwrap();
        return None;
    }
    Some(file)
}

pub fn mapping_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/mappings")
        .join(name)
}

/// Options with a mapping of ours for data that lies elsewhere.
pub fn shared_options(purpose: Purpose, mapping: &str) -> ReadOptions {
    let options = ReadOptions::new(purpose, now())
        .with_mapping_file(&mapping_file(mapping))
        .unwrap();
    ReadOptions {
        folder: None,
        ..options
    }
}
