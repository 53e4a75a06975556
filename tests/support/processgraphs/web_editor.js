// Logs in to the openEO Web Editor, opens the first job's graph and results, takes a picture:
// node web_editor.js BROWSER URL TOKEN PICTURE. puppeteer-core is found by NODE_PATH.
const puppeteer = require('puppeteer-core');

const [browser, url, token, picture] = process.argv.slice(2);
const rest = seconds => new Promise(resolve => setTimeout(resolve, 1000 * seconds));

async function look() {
  const opened = await puppeteer.launch({executablePath: browser, args: ['--no-sandbox', '--disable-gpu']});
  try {
    const page = await opened.newPage();
    await page.setViewport({width: 1280, height: 900});
    await page.goto(url, {timeout: 90000});
    await page.waitForSelector('input[type=password]', {timeout: 90000});
    await page.type('input[type=text]', 'anybody');
    await page.type('input[type=password]', token);
    await page.keyboard.press('Enter');
    for (const icon of ['.fa-project-diagram', '.fa-eye']) {
      const button = await page.waitForSelector(`td button:has(${icon})`, {timeout: 90000});
      await rest(3);
      await button.click();
    }
    await page.waitForSelector('canvas', {timeout: 90000});
    await rest(8); // until tiles are drawn
    await page.screenshot({path: picture});
  } finally {
    await opened.close();
  }
}

look().catch(error => { console.error(error.message); process.exit(1); });
