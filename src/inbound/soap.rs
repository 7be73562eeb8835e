//! Salesforce's Outbound Message: SOAP 1.1 with up to a hundred notifications.

use quick_xml::NsReader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use serde_json::{Map, Value};

use super::Unreadable;

const OUTBOUND: &str = "http://soap.sforce.com/2005/09/outbound";
const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Elements within elements; a message has seven.
const DEPTH_MAX: usize = 32;

/// What tells Salesforce that a message need not come again.
pub const ACKNOWLEDGEMENT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/">
  <soapenv:Body>
    <notificationsResponse xmlns="http://soap.sforce.com/2005/09/outbound">
      <Ack>true</Ack>
    </notificationsResponse>
  </soapenv:Body>
</soapenv:Envelope>
"#;

#[derive(Debug, Default, PartialEq)]
pub struct Message {
    pub organization_id: String,
    pub notifications: Vec<Notification>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Notification {
    pub id: String,
    /// `Opportunity`.
    pub kind: String,
    /// Texts by name; null for a nil.
    pub fields: Map<String, Value>,
}

/// An element while its content is read.
struct Open {
    name: String,
    /// Whether it is one of the outbound message itself, rather than of the record in it.
    is_outbound: bool,
    is_envelope: bool,
    is_nil: bool,
    text: String,
}

/// Reads a message.
///
/// # Errors
/// `Refused` for a document type or an entity of its own, which no such message has; `Kept` for
/// anything else that is not a message.
pub fn parse(body: &[u8]) -> Result<Message, Unreadable> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Unreadable::Refused("the message is not UTF-8".into()))?;
    let mut reader = NsReader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut message = Message::default();
    let mut open: Vec<Open> = Vec::new();
    loop {
        match reader.read_event().map_err(broken)? {
            Event::Start(start) => {
                let element = element(&reader, &start)?;
                if open.is_empty() && !element.is_envelope {
                    return Err(broken("it does not begin with a SOAP envelope"));
                }
                if open.len() >= DEPTH_MAX {
                    return Err(Unreadable::Refused(
                        "the message is nested too deeply".into(),
                    ));
                }
                begin(&mut message, &reader, &start, &element)?;
                open.push(element);
            }
            Event::End(_) => {
                let element = open.pop().ok_or_else(|| broken("an element ends twice"))?;
                end(&mut message, &open, element);
            }
            Event::Text(text) => append(&mut open, &text.xml10_content()),
            Event::CData(text) => append(&mut open, &text.xml10_content()),
            Event::GeneralRef(reference) => append(&mut open, &resolve(&reference)?),
            Event::DocType(_) => {
                return Err(Unreadable::Refused("a message has no document type".into()));
            }
            Event::Eof if open.is_empty() => break,
            Event::Eof => return Err(broken("the message ends too early")),
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) | Event::Empty(_) => {}
        }
    }
    match message.organization_id.is_empty() {
        true => Err(broken("there is no OrganizationId")),
        false => Ok(message),
    }
}

fn broken(reason: impl ToString) -> Unreadable {
    Unreadable::Kept(format!("is no Outbound Message: {}", reason.to_string()))
}

fn element(reader: &NsReader<&[u8]>, start: &BytesStart) -> Result<Open, Unreadable> {
    let (namespace, name) = reader.resolver().resolve_element(start.name());
    let mut is_nil = false;
    for attribute in start.attributes() {
        let attribute = attribute.map_err(broken)?;
        let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
        let is_of_instance = namespace == ResolveResult::Bound(Namespace(INSTANCE));
        is_nil |= is_of_instance
            && name.as_ref() == "nil"
            && ["true", "1"].contains(&attribute.value.as_ref());
    }
    let is_soap = namespace == ResolveResult::Bound(Namespace(ENVELOPE));
    Ok(Open {
        is_envelope: is_soap && name.as_ref() == "Envelope",
        name: name.as_ref().to_owned(),
        is_outbound: namespace == ResolveResult::Bound(Namespace(OUTBOUND)),
        is_nil,
        text: String::new(),
    })
}

fn begin(
    message: &mut Message,
    reader: &NsReader<&[u8]>,
    start: &BytesStart,
    element: &Open,
) -> Result<(), Unreadable> {
    match element.name.as_str() {
        "Notification" if element.is_outbound => {
            message.notifications.push(Notification::default());
        }
        "sObject" if element.is_outbound => {
            if let Some(notification) = message.notifications.last_mut() {
                notification.kind = type_of(reader, start)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The `xsi:type` without its prefix.
fn type_of(reader: &NsReader<&[u8]>, start: &BytesStart) -> Result<String, Unreadable> {
    for attribute in start.attributes() {
        let attribute = attribute.map_err(broken)?;
        let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
        if namespace == ResolveResult::Bound(Namespace(INSTANCE)) && name.as_ref() == "type" {
            let value: &str = attribute.value.as_ref();
            let local = value.rsplit(':').next().unwrap_or(value);
            return Ok(local.to_owned());
        }
    }
    Ok(String::new())
}

fn end(message: &mut Message, open: &[Open], element: Open) {
    let Some(parent) = open.last() else { return };
    let text = element.text.trim();
    match (parent.name.as_str(), element.name.as_str()) {
        ("notifications", "OrganizationId") if element.is_outbound => {
            message.organization_id = text.to_owned();
        }
        ("Notification", "Id") if element.is_outbound => {
            if let Some(notification) = message.notifications.last_mut() {
                notification.id = text.to_owned();
            }
        }
        ("sObject", _) if parent.is_outbound => {
            if let Some(notification) = message.notifications.last_mut() {
                let value = if element.is_nil {
                    Value::Null
                } else {
                    text.into()
                };
                notification.fields.insert(element.name, value);
            }
        }
        _ => {}
    }
}

fn append(open: &mut [Open], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

/// A character reference, or one of the five entities that XML itself has.
fn resolve(reference: &BytesRef) -> Result<String, Unreadable> {
    if let Some(char) = reference.resolve_char_ref().map_err(broken)? {
        return Ok(char.to_string());
    }
    let name = reference.xml10_content();
    let known = resolve_predefined_entity(&name).map(str::to_owned);
    known.ok_or_else(|| Unreadable::Refused("a message has no entities of its own".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(inner: &str) -> String {
        format!(
            r#"<s:Envelope xmlns:s="{ENVELOPE}" xmlns:i="{INSTANCE}"><s:Body>
               <o:notifications xmlns:o="{OUTBOUND}"><o:OrganizationId>00D1</o:OrganizationId>
               <o:SessionId i:nil="true"/>{inner}</o:notifications></s:Body></s:Envelope>"#
        )
    }

    #[test]
    fn a_message_is_read_whatever_its_prefixes() {
        let body = message(
            r#"<o:Notification><o:Id>04l</o:Id>
               <o:sObject i:type="e:Opportunity" xmlns:e="urn:sobject">
               <e:Id>006</e:Id><e:Name>A &amp; B &#233;<![CDATA[<C>]]></e:Name>
               <e:Amount i:nil="true"/><e:Note/></o:sObject></o:Notification>"#,
        );
        let message = parse(body.as_bytes()).unwrap();
        assert_eq!(message.organization_id, "00D1");
        let [notification] = &message.notifications[..] else {
            panic!("{message:?}");
        };
        assert_eq!(
            (&*notification.id, &*notification.kind),
            ("04l", "Opportunity")
        );
        assert_eq!(notification.fields["Name"], "A & B é<C>");
        assert_eq!(notification.fields["Amount"], Value::Null);
        assert_eq!(notification.fields["Note"], "");
    }

    #[test]
    fn document_types_and_entities_are_refused() {
        let bomb = format!(
            r#"<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]>{}"#,
            message("&a;")
        );
        let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
        for body in [bomb, message("<o:X>&a;</o:X>"), message(&deep)] {
            let refused = parse(body.as_bytes());
            assert!(
                matches!(refused, Err(Unreadable::Refused(_))),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn what_is_no_message_is_kept_with_its_reason() {
        let whole = message("");
        for body in ["", "<x/>", &whole[..whole.len() - 5], "{}", "<a></b>"] {
            let kept = parse(body.as_bytes());
            assert!(matches!(kept, Err(Unreadable::Kept(_))), "{body}: {kept:?}");
        }
    }
}
