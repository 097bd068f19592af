//! Is a text well-formed? As much of XML as the reports use: elements, attributes in double quotes, the five entities.

/// The first mistake, if there is one, with the text around it.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut ids: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        content(&rest[..start])?;
        let end = rest[start..].find('>').ok_or("a tag without end")? + start;
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if tag.starts_with('?') || tag.starts_with('!') {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            match open.pop() {
                Some(last) if last == name => continue,
                last => return Err(format!("</{name}> closes {last:?}")),
            }
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once([' ', '\n']).unwrap_or((tag, ""));
        if name.is_empty() || !name.chars().all(|letter| letter.is_ascii_alphanumeric()) {
            return Err(format!("<{tag}> has no name"));
        }
        ids.extend(self::attributes(attributes)?);
        if !empty {
            open.push(name);
        }
        if name == "style" {
            // Style sheets may say `a > b`, and nothing else of XML matters in them here.
            rest = &rest[rest.find("</style>").ok_or("a style sheet without end")?..];
        }
    }
    content(rest)?;
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("two elements have the id {}", pair[0])),
        None if open.is_empty() => Ok(()),
        None => Err(format!("not closed: {open:?}")),
    }
}

/// Text between tags, or the value of an attribute: `&` only begins entities.
fn content(text: &str) -> Result<(), String> {
    if text.contains(['<', '>']) {
        return Err(format!("a < or > that is no tag: {text:?}"));
    }
    for after in text.split('&').skip(1) {
        let entity = after.split_once(';').map_or("", |(entity, _)| entity);
        let number = entity.strip_prefix('#').is_some_and(|digits| digits.parse::<u32>().is_ok());
        if !number && !["amp", "lt", "gt", "quot"].contains(&entity) {
            return Err(format!("no entity: &{after:?}"));
        }
    }
    Ok(())
}

/// Checks attributes, and returns the value of `id`, if there is one.
fn attributes(mut text: &str) -> Result<Option<&str>, String> {
    let mut id = None;
    while !text.trim().is_empty() {
        let (name, after) = text.trim_start().split_once("=\"").ok_or(format!("no attribute: {text:?}"))?;
        if !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-') {
            return Err(format!("no name of an attribute: {name:?}"));
        }
        let (value, after) = after.split_once('"').ok_or(format!("a value without end: {after:?}"))?;
        content(value)?;
        if name == "id" {
            id = Some(value);
        }
        text = after;
    }
    Ok(id)
}

#[test]
fn mistakes_are_found() {
    assert_eq!(check("<a b=\"1\" id=\"x\">&amp;&#160;<c/></a>"), Ok(()));
    for wrong in [
        "<a>",
        "<a></b>",
        "<a b=1/>",
        "<a>&b;</a>",
        "<a b=\"<\"/>",
        "a > b",
        "<a & b>",
        "<a id=\"x\"/><b id=\"x\"/>",
        "<a/",
    ] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
}
