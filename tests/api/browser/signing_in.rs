use super::Browser;
use crate::service::Service;
use crate::visit::{link, manager_key, rep_key};

#[tokio::test]
async fn embedded_a_manager_signs_in_with_a_key_and_out_again() {
    let service = Service::start();
    let key = manager_key(&service);
    let browser = Browser::at(service.base()).await;
    browser.go("/models").await;
    browser.until_path("/sign-in?next=%2Fmodels").await;
    browser.assert_accessible().await;

    browser.type_into("input[name=key]", "drk_wrong\n").await;
    browser.until_text("no such key").await;
    browser.assert_accessible().await;
    browser
        .type_into("input[name=key]", &format!("{key}\n"))
        .await;
    browser.until("location.pathname === '/models'").await;
    browser.click(".who button").await;
    browser.until_path("/sign-in").await;
    browser.go("/").await;
    browser.until_path("/sign-in?next=%2F").await;
}

#[tokio::test]
async fn embedded_a_rep_signs_in_with_a_link_and_is_kept_out_elsewhere() {
    let service = Service::start();
    service.train().await;
    rep_key(&service, "Ada");
    let link = link(&service, "Ada");
    let browser = Browser::at(service.base()).await;
    browser.go(&link).await;
    browser.assert_accessible().await;
    browser.click("main button").await;
    browser.until_path("/queue/Ada").await;
    for other in ["/queue/Ben", "/models", "/imports"] {
        browser.go(other).await;
        browser.until_text("not for your sign-in").await;
        browser.assert_accessible().await;
    }
    // The link is worth nothing to the next.
    let other = Browser::at(service.base()).await;
    other.go(&link).await;
    other.until_text("has been used").await;
}
