//! `sqlx::migrate!` reads folders: a file that is new there has to lead to a new build.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
