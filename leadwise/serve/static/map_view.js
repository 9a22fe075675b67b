/** Which part of the plane the map shows. Places on the screen are CSS pixels of the stage. */

const ZOOM = { least: 0.8, most: 60 };
const MARGIN = 0.96; // of the shorter side of the stage

export class View {
  constructor(stage) {
    this.stage = stage;
    this.fit();
  }

  fit() {
    Object.assign(this, { zoom: 1, x: 0.5, y: 0.5 }); // the place in the middle of the stage
  }

  size() {
    return { width: this.stage.clientWidth, height: this.stage.clientHeight };
  }

  /** Return CSS pixels per unit of the plane. */
  scale() {
    const { width, height } = this.size();
    return Math.min(width, height) * MARGIN * this.zoom;
  }

  toScreen(x, y) {
    const { width, height } = this.size();
    const k = this.scale();
    return [(x - this.x) * k + width / 2, (y - this.y) * k + height / 2];
  }

  toPlane(px, py) {
    const { width, height } = this.size();
    const k = this.scale();
    return [(px - width / 2) / k + this.x, (py - height / 2) / k + this.y];
  }

  /** Zoom, holding a place where it is: the middle of the stage if there is none. */
  zoomBy(factor, place) {
    const { width, height } = this.size();
    const [px, py] = place ?? [width / 2, height / 2];
    const [x, y] = this.toPlane(px, py);
    this.zoom = Math.min(ZOOM.most, Math.max(ZOOM.least, this.zoom * factor));
    const k = this.scale();
    this.x = x - (px - width / 2) / k;
    this.y = y - (py - height / 2) / k;
  }

  /** Move what is on the screen by pixels. */
  moveBy(dx, dy) {
    const k = this.scale();
    this.x -= dx / k;
    this.y -= dy / k;
  }
}
