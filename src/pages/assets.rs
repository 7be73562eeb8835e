//! What pages load: from the binary, under names that change with the content, so that browsers may
//! keep them for ever.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::Path;
use sha2::{Digest, Sha256};

use super::layout::PageError;
use crate::http::problem::Problem;

/// A file in the binary.
#[derive(Debug)]
pub struct Asset {
    /// With the beginning of a hash of the content.
    name: String,
    media_type: &'static str,
    content: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, media_type: &'static str, content: &'static str) -> Self {
        let hash = Sha256::digest(content.as_bytes());
        let hash: String = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            name: format!("{stem}-{hash}.{extension}"),
            media_type,
            content,
        }
    }

    /// Where it is served.
    pub fn href(&self) -> String {
        format!("/assets/{}", self.name)
    }
}

macro_rules! asset {
    ($stem:literal, $extension:literal, $media_type:literal) => {
        LazyLock::new(|| {
            let content = include_str!(concat!("assets/", $stem, ".", $extension));
            Asset::new($stem, $extension, $media_type, content)
        })
    };
}

pub static STYLE: LazyLock<Asset> = asset!("dealrank", "css", "text/css; charset=utf-8");
pub static SCRIPT: LazyLock<Asset> = asset!("dealrank", "js", "text/javascript; charset=utf-8");
pub static MARK: LazyLock<Asset> = asset!("mark", "svg", "image/svg+xml");

/// `/assets/{name}`.
pub async fn asset(name: Path<String>) -> Result<HttpResponse, PageError> {
    let assets = [&STYLE, &SCRIPT, &MARK];
    let asset = assets.into_iter().find(|asset| asset.name == *name);
    let Some(asset) = asset else {
        return Err(Problem::unknown_route(&format!("/assets/{name}")).into());
    };
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, asset.media_type))
        .insert_header((CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .insert_header(("x-content-type-options", "nosniff"))
        .body(asset.content))
}
