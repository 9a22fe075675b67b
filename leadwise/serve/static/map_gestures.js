/** Pointers, fingers, wheel and keys on the map. */

export const ZOOM_STEP = 1.4; // by a key or a button
const ARROW_PX = 60;

/** Return the middle of two places and their distance. */
function spread([[ax, ay], [bx, by]]) {
  return { middle: [(ax + bx) / 2, (ay + by) / 2], distance: Math.hypot(ax - bx, ay - by) };
}

/**
 * Listen on the stage of a map.
 *
 * map: {view, isLasso(), changed(), point(place), unpoint(), outline(path or null), lasso(path), selectView()}.
 */
export function listen(stage, map) {
  const { view } = map;
  const at = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const held = new Map(); // pointers that are down -> their place
  let path = null; // of the lasso

  stage.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      view.zoomBy(Math.exp(-event.deltaY * 0.002), at(event));
      map.changed();
    },
    { passive: false },
  );
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const place = at(event);
    held.set(event.pointerId, place);
    stage.setPointerCapture(event.pointerId);
    path = (map.isLasso() || event.shiftKey) && held.size === 1 ? [place] : null;
    map.outline(path);
    if (held.size === 2) map.unpoint();
    else if (event.pointerType !== "mouse" && !path) map.point(place);
  });
  stage.addEventListener("pointermove", (event) => {
    const place = at(event);
    if (!held.has(event.pointerId)) {
      map.point(place);
      return;
    }
    const before = [...held.values()];
    held.set(event.pointerId, place);
    if (path) {
      path.push(place);
      map.outline(path);
    } else if (held.size === 2) {
      const [from, to] = [spread(before), spread([...held.values()])];
      view.moveBy(to.middle[0] - from.middle[0], to.middle[1] - from.middle[1]);
      if (from.distance > 0) view.zoomBy(to.distance / from.distance, to.middle);
    } else if (held.size === 1) {
      const [dx, dy] = [place[0] - before[0][0], place[1] - before[0][1]];
      if (dx || dy) map.unpoint();
      view.moveBy(dx, dy);
    }
    map.changed();
  });
  const end = (event) => {
    held.delete(event.pointerId);
    if (!path) return;
    const drawn = path;
    path = null;
    map.outline(null);
    if (drawn.length > 2 && event.type === "pointerup") map.lasso(drawn);
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);
  stage.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") map.unpoint(); // a finger always leaves: what it touched stays
  });
  stage.addEventListener("keydown", (event) => key(event, map));
}

function key(event, map) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  if (event.key === "+" || event.key === "=") map.view.zoomBy(ZOOM_STEP);
  else if (event.key === "-") map.view.zoomBy(1 / ZOOM_STEP);
  else if (event.key === "0") map.view.fit();
  else if (event.key === "Enter") map.selectView();
  else if (event.key in arrows) map.view.moveBy(arrows[event.key][0] * ARROW_PX, arrows[event.key][1] * ARROW_PX);
  else return;
  event.preventDefault();
  map.changed();
}
